"""What is compared: a cell is our engine against another way of doing the same training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

Engine = Literal["ours", "trl", "dense"]
Peft = Literal["full", "lora"]
Lengths = Literal["short", "long"]
Order = Literal["shuffled", "grouped"]


@dataclass(frozen=True)
class Side:
    """One way of training."""

    engine: Engine
    method: str = "dpo"
    #: hyperparameters of the method (ours, dense) or arguments of TRL's DPOConfig, beside those all sides share
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """Two sides on the same model, pairs and batches."""

    name: str
    peft: Peft
    lengths: Lengths
    ours: Side
    other: Side
    order: Order = "shuffled"
    #: the least pairs/s of ours over the other's that the project asks for
    target: float | None = None
    #: whether both sides minimise the same thing, so that their losses must agree step by step
    same_loss: bool = False
    #: whether the rows are a prompt and one answer instead of pairs
    answers: bool = False


#: DPOConfig's own values, written out where the issue at hand names them
TRL_DEFAULTS = {"gradient_checkpointing": True, "precompute_ref_log_probs": False}
#: the fastest of its settings; batches of pairs of like length are the cell's order
TRL_BEST = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
SPARSE_MASKS = {"ones": "ones", "common": "learned_common", "independent": "learned_independent"}
TARGETS = {("short", "defaults"): 4.5, ("short", "best"): 3.5, ("long", "defaults"): 7.0, ("long", "best"): 6.0}


def _against_trl(peft: Peft, lengths: Lengths, at: Literal["defaults", "best"]) -> Cell:
    other = Side("trl", settings=TRL_DEFAULTS if at == "defaults" else TRL_BEST)
    order: Order = "shuffled" if at == "defaults" else "grouped"
    target = TARGETS[lengths, at]
    return Cell(f"dpo-{peft}-{lengths}-{at}", peft, lengths, Side("ours"), other, order, target, same_loss=True)


def _sparse(mask: str) -> Side:
    return Side("ours", "sparsepo", {"mask": SPARSE_MASKS[mask]})


def _sparse_against_dpo(mask: str) -> Cell:
    return Cell(f"sparsepo-{mask}-dpo", "lora", "short", _sparse(mask), Side("ours"), target=1 / 1.3)


def _sparse_against_dense(mask: str) -> Cell:
    other = Side("dense", "sparsepo", {"mask": SPARSE_MASKS[mask]})
    return Cell(f"sparsepo-{mask}-dense", "lora", "short", _sparse(mask), other, same_loss=True)


def _online() -> Cell:
    """As where the states of every block would not fit on disk."""
    ours = Side("ours", "sparsepo", {"mask": "learned_common", "reference_store_gb": 0})
    return Cell("sparsepo-common-online-dpo", "lora", "short", ours, Side("ours"), target=1 / 1.6)


def _anchored(peft: Peft) -> Cell:
    ours, other = Side("ours", "asft"), Side("ours", "supervised")
    return Cell(f"asft-{peft}-supervised", peft, "short", ours, other, target=1 / 1.25, answers=True)


#: in the order in which they are run
CELLS = (
    _against_trl("lora", "short", "defaults"),
    _against_trl("lora", "short", "best"),
    _against_trl("full", "short", "defaults"),
    _against_trl("full", "short", "best"),
    _against_trl("lora", "long", "defaults"),
    _against_trl("lora", "long", "best"),
    _against_trl("full", "long", "defaults"),
    _against_trl("full", "long", "best"),
    *(_sparse_against_dpo(mask) for mask in SPARSE_MASKS),
    _online(),
    *(_sparse_against_dense(mask) for mask in ("common", "independent", "ones")),
    _anchored("lora"),
)
#: what `--quick` runs
QUICK = ("dpo-lora-short-best", "dpo-full-short-defaults", "sparsepo-common-dense")


def unavailable(cell: Cell) -> str | None:
    """Why this installation cannot run the cell, None where it can."""
    from trainers.spec import METHODS, JobSpec

    for side in (cell.ours, cell.other):
        if side.engine == "ours" and side.method not in METHODS:
            return f"there is no method {side.method}"
    try:
        JobSpec.model_validate(
            {"model": "m", "training_file": "f", "method": {"type": "dpo"}, "peft": {"type": cell.peft}}
        )
    except ValidationError:
        return f"there is no peft of type {cell.peft}"
    return None
