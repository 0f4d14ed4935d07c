"""What is trained on: a prompt with its answers as token ids, each scored token with a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

#: names in `Example.columns` that the engine itself reads
WEIGHT = "weight"


@dataclass(frozen=True)
class Answer:
    """What follows a prompt: n tokens, of which those with a weight are scored; the others are only read."""

    ids: Tensor  #: (n,) int64
    weights: Tensor | None = None  #: (n,) float32, at least 0; without it each token counts 1

    @cached_property
    def scored(self) -> Tensor:
        """The places, in 0..n-1, of the tokens that count."""
        return torch.arange(len(self.ids)) if self.weights is None else self.weights.nonzero()[:, 0]

    @cached_property
    def scored_weights(self) -> Tensor:
        """Their weights, float32."""
        return torch.ones(len(self.ids)) if self.weights is None else self.weights[self.scored]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Example:
    """A line of a file: its prompt once, and one answer or two (of a pair, the chosen one first)."""

    line: int
    prompt: Tensor  #: (m,) int64, at least one token
    answers: tuple[Answer, ...]
    columns: Mapping[str, float] = field(default_factory=dict)  #: what else the line says, by name

    @property
    def tokens(self) -> int:
        """The prompt once and its answers."""
        return len(self.prompt) + sum(map(len, self.answers))

    @property
    def weight(self) -> float:
        """How much the example counts beside others."""
        return self.columns.get(WEIGHT, 1.0)

    @cached_property
    def token_weight(self) -> float:
        """Sum of the weights of the first answer's tokens, times the example's own: its part in a mean over tokens."""
        return self.weight * float(self.answers[0].scored_weights.sum())


def pair(line: int, prompt: Tensor, chosen: Tensor, rejected: Tensor, **columns: float) -> Example:
    """A preference pair whose tokens all count."""
    return Example(line, prompt, (Answer(chosen), Answer(rejected)), columns)
