"""What an attempt leaves in `out/`: adapter, objective state, token masks, and last of all the manifest."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from trainers import adapters, manifest, token_masks
from trainers.adapters import Adapter
from trainers.early_stopping import VALID_LOSS, VALID_PREFIX
from trainers.learner import PER_EXAMPLE, Learner
from trainers.manifest import Checkpoint, Manifest
from trainers.spec import Assignment

ADAPTER, OBJECTIVE = "adapter", "objective"
#: final metrics are means over this share of the run's log
CLOSING_SHARE = 0.1


@dataclass(frozen=True)
class Learned:
    """A copy on the CPU of all that was trained."""

    adapter: Adapter
    objective: Mapping[str, Tensor]

    @classmethod
    def of(cls, learner: Learner, assignment: Assignment) -> Learned:
        """The adapter on the plain base (an earlier one joined in) and the objective's state; on every rank."""
        adapter = adapters.trained(learner.policy)
        if assignment.adapter_path is not None:
            adapter = adapters.joined(adapters.read(assignment.adapter_path), adapter)
        modules = learner.objective_modules
        state = {name: adapters.full(p) for name, p in modules.named_parameters()} if modules else {}
        return cls(adapter, state)

    def is_finite(self) -> bool:
        """Whether every number of it is one."""
        parts = [part for pair in self.adapter.layers.values() for part in pair]
        return all(bool(part.isfinite().all()) for part in [*parts, *self.objective.values()])

    def write(self, folder: Path, base_model: str) -> None:
        """`adapter/` and, beside it, `objective/mask.safetensors`, replacing what is there."""
        for name in (ADAPTER, OBJECTIVE):
            shutil.rmtree(folder / name, ignore_errors=True)
        adapters.write(self.adapter, folder / ADAPTER, base_model)
        if self.objective:
            (folder / OBJECTIVE).mkdir()
            save_file(dict(self.objective), folder / OBJECTIVE / "mask.safetensors", {"format": "pt"})


def publish(
    out: Path,
    assignment: Assignment,
    learned: Learned,
    masks: Mapping[str, Any],
    *,
    history: Sequence[Mapping[str, float]],
    checkpoints: Sequence[Checkpoint],
    trained_tokens: int,
) -> Manifest:
    """Write everything, then the manifest; `history` is the run's log up to the step that is published."""
    learned.write(out, assignment.base_model)
    (out / token_masks.NAME).write_text(json.dumps(masks, allow_nan=False))
    servable = [out / checkpoint.path / ADAPTER for checkpoint in checkpoints]
    made = Manifest(
        job=assignment.job,
        attempt=assignment.attempt,
        created_at=int(time.time()),
        base_model=assignment.base_model,
        base_digest=assignment.model_digest,
        rank=learned.adapter.rank,
        target_modules=learned.adapter.target_modules,
        trained_tokens=trained_tokens,
        steps=int(history[-1]["step"]),
        metrics=closing(history),
        checkpoints=list(checkpoints),
        files=manifest.stored_files(out, [out / ADAPTER, out / OBJECTIVE, out / token_masks.NAME, *servable]),
    )
    manifest.write(made, out)
    return made


def closing(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over the last tenth of the log (at least one entry), and the first entry's loss.

    Those of the validation file are over all of it, so the last of them stands.
    """
    logged = [entry for entry in history if PER_EXAMPLE in entry]
    last = logged[-ceil(CLOSING_SHARE * len(logged)) :]
    names = {name for entry in last for name in entry if not _is_validation(name)} - {"step", "epoch", "learning_rate"}
    metrics = {}
    for name in sorted(names):
        values = [entry[name] for entry in last if name in entry]
        metrics[name] = sum(values) / len(values)
    return metrics | _validation(history) | {"initial_loss": logged[0][PER_EXAMPLE]}


def _validation(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    evaluated = next((entry for entry in reversed(history) if VALID_LOSS in entry), {})
    return {name: value for name, value in evaluated.items() if _is_validation(name)}


def _is_validation(name: str) -> bool:
    return name == VALID_LOSS or name.startswith(VALID_PREFIX)
