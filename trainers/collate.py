"""Rows to one padded micro-batch; what objectives see of it holds neither prompt nor padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from trainers.data.tokens import TokenPair
from trainers.schedule import MicroBatch

#: names in a batch: those that the learner's forward takes
INPUTS = ("input_ids", "positions", "targets", "segment")


def collate(rows: Sequence[TokenPair], *, pad: int = 0) -> dict[str, Tensor]:
    """P pairs → `input_ids` (2P, T), the chosen first, padded on the right, and for the N completion tokens
    `positions` (N,) of the states that predict them in the flattened (2P·T), `targets` (N,), `segment` (N,).

    Causal attention never looks to the right, so no mask is needed.
    """
    answers = [row.chosen for row in rows] + [row.rejected for row in rows]
    prompts = [row.prompt for row in rows] * 2
    input_ids = pad_sequence(
        [torch.cat(both) for both in zip(prompts, answers, strict=True)], batch_first=True, padding_value=pad
    )
    lengths = torch.tensor([len(answer) for answer in answers])
    starts = torch.tensor([len(prompt) - 1 for prompt in prompts]) + torch.arange(len(answers)) * input_ids.shape[1]
    segment = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    positions = starts[segment] + torch.arange(len(segment)) - first
    return {"input_ids": input_ids, "positions": positions, "targets": torch.cat(answers), "segment": segment}


@dataclass(frozen=True)
class MicroBatches(Dataset[dict[str, Any]]):
    """The rows, asked for by micro-batch."""

    rows: Sequence[TokenPair]
    pad: int

    def __getitem__(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """The collated tensors with the micro-batch's `weight` and divisors."""
        tensors = collate([self.rows[index] for index in micro_batch.pairs], pad=self.pad)
        divisors = {"step_pairs": micro_batch.step_pairs, "step_tokens": micro_batch.step_tokens}
        return {**tensors, "weight": micro_batch.weight, **divisors}

    def __len__(self) -> int:
        return len(self.rows)
