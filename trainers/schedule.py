"""Which pairs go into which step, on which rank, in which micro-batch. Torch-free."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank."""

    pairs: tuple[int, ...]  #: indices into the rows
    step_pairs: int  #: pairs of the whole optimiser step, over all ranks: the divisor of terms that count pairs
    step_tokens: int  #: tokens of those pairs' chosen answers: the divisor of terms that count tokens
    #: 1, or 0 for a rank that has run out of pairs but must still take part in the backward pass
    weight: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """All micro-batches of one rank over all epochs, `accumulation` of them per optimiser step.

    A step's pairs depend on the seed only, never on how many ranks or micro-batches share them; the last step
    of an epoch holds what is left.
    """

    chosen_tokens: tuple[int, ...]  #: of each pair's chosen answer
    epochs: int
    batch_size: int
    micro_batch_size: int
    ranks: int
    rank: int
    seed: int

    @property
    def pairs(self) -> int:
        """Pairs in an epoch."""
        return len(self.chosen_tokens)

    @property
    def accumulation(self) -> int:
        """Micro-batches per step: as few as hold the largest rank's share."""
        return ceil(ceil(min(self.batch_size, self.pairs) / self.ranks) / self.micro_batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.epochs * ceil(self.pairs / self.batch_size)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for epoch in range(self.epochs):
            order = list(range(self.pairs))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
            for start in range(0, self.pairs, self.batch_size):
                for micro_batch in self._share(order[start : start + self.batch_size]):
                    yield [micro_batch]

    def _share(self, step: list[int]) -> Iterator[MicroBatch]:
        mine = step[self.rank :: self.ranks]
        divisors = len(step), sum(self.chosen_tokens[pair] for pair in step)
        for place in range(self.accumulation):
            chunk = tuple(mine[place :: self.accumulation])
            yield MicroBatch(chunk or (step[0],), *divisors, weight=1.0 if chunk else 0.0)
