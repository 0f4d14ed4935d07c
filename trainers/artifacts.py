"""What an attempt leaves in `out/`: adapter or merged weights, objective state, token masks, and last the manifest."""

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
from trainers.merged import Merged
from trainers.spec import Assignment

ADAPTER, MERGED, OBJECTIVE = "adapter", "merged", "objective"
#: final metrics are means over this share of the run's log
CLOSING_SHARE = 0.1


@dataclass(frozen=True)
class Learned:
    """A copy on the CPU of all that was trained."""

    weights: Adapter | Merged
    objective: Mapping[str, Tensor]

    @classmethod
    def of(cls, learner: Learner, assignment: Assignment, *, keep: bool) -> Learned:
        """On every rank; those that do not `keep` it hold none of what is merged."""
        modules = learner.objective_modules
        state = adapters.copies(modules.named_parameters()) if modules else {}
        return cls(_weights(learner.policy, assignment, keep=keep), state)

    def is_finite(self) -> bool:
        """Whether every number of it is one."""
        return self.weights.is_finite() and all(bool(part.isfinite().all()) for part in self.objective.values())

    def write(self, folder: Path, assignment: Assignment) -> None:
        """`adapter/` or `merged/` and, beside it, `objective/mask.safetensors`, replacing what is there."""
        for name in (ADAPTER, MERGED, OBJECTIVE):
            shutil.rmtree(folder / name, ignore_errors=True)
        if isinstance(self.weights, Adapter):
            adapters.write(self.weights, folder / ADAPTER, assignment.base_model)
        else:
            self.weights.write(folder / MERGED, assignment)
        if self.objective:
            (folder / OBJECTIVE).mkdir()
            save_file(dict(self.objective), folder / OBJECTIVE / "mask.safetensors", {"format": "pt"})


def _weights(policy: Any, assignment: Assignment, *, keep: bool) -> Adapter | Merged:
    """The adapter on the plain base (an earlier one joined in), or all that merged weights are made of."""
    if assignment.spec.served_as == MERGED:
        return Merged.of(policy, keep=keep)
    adapter = adapters.trained(policy)
    if assignment.adapter_path is None:
        return adapter
    return adapters.joined(adapters.read(assignment.adapter_path), adapter)


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
    learned.write(out, assignment)
    (out / token_masks.NAME).write_text(json.dumps(masks, allow_nan=False))
    kind = assignment.spec.served_as
    adapter = learned.weights if isinstance(learned.weights, Adapter) else None
    servable = [out / checkpoint.path / kind for checkpoint in checkpoints]
    made = Manifest(
        job=assignment.job,
        attempt=assignment.attempt,
        created_at=int(time.time()),
        kind=kind,
        base_model=assignment.base_model,
        base_digest=assignment.model_digest,
        merged_model=assignment.merged_model if adapter else None,
        rank=adapter.rank if adapter else None,
        target_modules=adapter.target_modules if adapter else [],
        trained_tokens=trained_tokens,
        steps=int(history[-1]["step"]),
        metrics=closing(history),
        checkpoints=list(checkpoints),
        files=manifest.stored_files(out, [out / kind, out / OBJECTIVE, out / token_masks.NAME, *servable]),
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
