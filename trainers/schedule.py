"""Which examples go into which step, on which rank, in which row. Torch-free."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import chain, islice
from math import ceil


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank."""

    examples: tuple[int, ...]  #: indices into the data
    step_examples: float  #: weight of the whole step's examples, over all ranks: the divisor of terms that count them
    step_tokens: float  #: weight of the tokens of their first answers: the divisor of terms that count tokens
    #: 1, or 0 for a rank that has run out of examples but must still take part in the backward pass
    weight: float = 1.0
    most_examples: int = 1  #: the largest number of examples that any rank has in this pass
    most_tokens: int = 1  #: and of tokens
    place: int = 0  #: of the row among those of its step


@dataclass(frozen=True)
class Schedule:
    """All micro-batches of one rank over all epochs, `accumulation` of them per optimiser step.

    A step's examples depend on the seed only, never on how many ranks or rows share them; the last step of an epoch
    holds what is left. Within a step the longest goes first, into the row that is emptiest.
    """

    tokens: tuple[int, ...]  #: of each example
    weights: tuple[float, ...]  #: of each example
    token_weights: tuple[float, ...]  #: of the scored tokens of each example's first answer, together
    epochs: int
    batch_size: int
    micro_batch_size: int  #: examples in a row, at most
    micro_batch_tokens: int  #: tokens in a row, at most; a longer example has a row of its own
    ranks: int
    rank: int
    seed: int

    @cached_property
    def accumulation(self) -> int:
        """Rows of a rank per step: as few as hold every step of the run."""
        largest = min(self.batch_size, len(self.tokens))
        rows = ceil(ceil(largest / self.micro_batch_size) / self.ranks)
        for step in self._steps():
            while self._packed(step, rows) is None:
                rows += 1
        # one row more can, in principle, undo a greedy packing: the number must fit all steps
        while any(self._packed(step, rows) is None for step in self._steps()):
            rows += 1
        return rows

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.epochs * ceil(len(self.tokens) / self.batch_size)

    def trained(self, steps: int) -> Iterator[int]:
        """The examples of the first `steps` steps, over all ranks, one after the other."""
        return chain.from_iterable(islice(self._steps(), steps))

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for step in self._steps():
            rows = self._packed(step, self.accumulation)
            assert rows is not None, "the accumulation holds every step"  # noqa: S101
            for place in range(self.accumulation):
                yield [self._mine(rows, step, place)]

    def _steps(self) -> Iterator[list[int]]:
        for epoch in range(self.epochs):
            order = list(range(len(self.tokens)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size]

    def _packed(self, step: list[int], rows: int) -> list[list[int]] | None:
        """The step's examples in `rows` rows of each rank, the fullest first; None where they do not fit."""
        packed: list[list[int]] = [[] for _ in range(rows * self.ranks)]
        emptiest = [(0, row) for row in range(len(packed))]
        for example in sorted(step, key=lambda example: (-self.tokens[example], example)):
            used, row = heappop(emptiest) if emptiest else (self.micro_batch_tokens, -1)
            if used and used + self.tokens[example] > self.micro_batch_tokens:
                return None
            packed[row].append(example)
            if len(packed[row]) < self.micro_batch_size:
                heappush(emptiest, (used + self.tokens[example], row))
        return sorted(packed, key=lambda row: -sum(self.tokens[example] for example in row))

    def _mine(self, rows: list[list[int]], step: list[int], place: int) -> MicroBatch:
        """This rank's row of those that all compute at once; who gets the fuller one changes from pass to pass."""
        together = rows[place * self.ranks : (place + 1) * self.ranks]
        mine = tuple(together[self.rank if place % 2 == 0 else -1 - self.rank])
        idle = (min(step, key=lambda example: (self.tokens[example], example)),)
        shares = [tuple(row) or idle for row in together]
        most = max(len(share) for share in shares)
        tokens = max(sum(self.tokens[example] for example in share) for share in shares)
        divisors = sum(self.weights[e] for e in step), sum(self.token_weights[e] for e in step)
        return MicroBatch(mine or idle, *divisors, 1.0 if mine else 0.0, most, tokens, place)
