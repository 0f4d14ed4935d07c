"""The rows of a run, by micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from trainers.data.examples import Example
from trainers.layouts import Layout
from trainers.reference import ReferenceStore
from trainers.schedule import MicroBatch


@dataclass(frozen=True)
class MicroBatches(Dataset[dict[str, Any]]):
    """All examples, asked for by micro-batch."""

    examples: Sequence[Example]
    layout: Layout
    store: ReferenceStore | None = None

    def __getitem__(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """The collated `row` with the micro-batch's `weight` and divisors."""
        row = self.layout.collate([self.examples[index] for index in micro_batch.examples], micro_batch.most_examples)
        row["most"] = max(row["most"], micro_batch.most_tokens)
        if self.store is not None:
            row["reference"] = self.store.read(micro_batch.examples)
        divisors = {"step_examples": micro_batch.step_examples, "step_tokens": micro_batch.step_tokens}
        return {"row": row, "weight": micro_batch.weight, "place": micro_batch.place, **divisors}

    def __len__(self) -> int:
        return len(self.examples)
