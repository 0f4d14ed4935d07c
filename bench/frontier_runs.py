"""What `bench.frontier` trains, and on which lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import real_input
from bench.real_input import Row

Family = Literal["afinn", "harmless", "sums"]
BETAS = (0.1, 1.0, 0.3)
#: method and its own settings, by the name of the curve
PREFERENCE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dpo": ("dpo", {}),
    "sparsepo mapo": ("sparsepo", {"mask": "mapo"}),
    "sparsepo common": ("sparsepo", {"mask": "learned_common"}),
    "sparsepo independent": ("sparsepo", {"mask": "learned_independent"}),
    "tdpo1": ("sparsepo", {"mask": "ones"}),
    "tdpo2": ("sparsepo", {"mask": "ones", "tdpo": 2}),
}
SUPERVISED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "supervised": ("supervised", {}),
    "dft": ("dft", {}),
    "asft": ("asft", {}),
    "asft policy to reference": ("asft", {"kl_direction": "policy_to_reference"}),
}
COMMON: Mapping[Family, Mapping[str, Any]] = {
    "afinn": {"learning_rate": 1e-3, "n_epochs": 2, "batch_size": 16, "micro_batch_size": 16, "checkpoints": 1},
    "harmless": {"learning_rate": 1e-3, "n_epochs": 1, "batch_size": 16, "micro_batch_size": 16, "checkpoints": 1},
    "sums": {"learning_rate": 1e-3, "n_epochs": 2, "batch_size": 16, "micro_batch_size": 16, "checkpoints": 1},
}
HARMLESS_BETA = 0.1
#: without a price nothing asks a learned mask to let go of a token
PRICE = {"l1_reward": 0.006, "l1_kl": 0.006}
#: lines of training and held-out files; longest line in characters: the model reads 512 tokens of about two each
TRAIN: Mapping[Family, int] = {"harmless": 384, "sums": 512}
HELD_OUT: Mapping[Family, int] = {"harmless": 96, "sums": 64}
CHARACTERS = 640


@dataclass(frozen=True)
class Run:
    """One job, or none for the base model itself."""

    family: Family
    series: str
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique, and fit for a file."""
        beta = self.settings.get("beta")
        return f"{self.family}-{self.series}".replace(" ", "-") + (f"-{beta}" if beta else "")


def _all() -> list[Run]:
    runs = [Run("afinn", "base")]
    for beta in BETAS:
        for series, (method, own) in PREFERENCE.items():
            runs.append(Run("afinn", series, method, {**COMMON["afinn"], **own, "beta": beta}))
    priced = {**COMMON["afinn"], **PREFERENCE["sparsepo common"][1], **PRICE}
    runs.append(Run("afinn", "sparsepo common priced", "sparsepo", {**priced, "beta": BETAS[0]}))
    for series, (method, own) in SUPERVISED.items():
        runs.append(Run("sums", series, method, {**COMMON["sums"], **own}))
    for series, (method, own) in PREFERENCE.items():
        runs.append(Run("harmless", series, method, {**COMMON["harmless"], **own, "beta": HARMLESS_BETA}))
    return runs


#: in the order in which they are run
RUNS = _all()


def training(family: Family, data: Path, afinn: Callable[[], list[Row]]) -> list[Row]:
    """The lines that a family's jobs are given."""
    return afinn() if family == "afinn" else _split(family, data)[1]


def held_out(family: Family, data: Path) -> list[Row]:
    """Lines that none of them is given."""
    return _split(family, data)[0]


def _split(family: Family, data: Path) -> tuple[list[Row], list[Row]]:
    rows = (real_input.harmless if family == "harmless" else real_input.sums)(data, CHARACTERS)
    most = HELD_OUT[family]
    return rows[:most], rows[most : most + TRAIN[family]]
