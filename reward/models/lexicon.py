"""A word list's sum: sentiment by AFINN or VADER, politeness, whatever words have weights."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from reward.models.base import TextReward
from reward.words import words

Entry = Annotated[str, Field(min_length=1, max_length=64)]


class Lexicon(TextReward):
    """Σ of the weights of the answer's words, or its mean over all words.

    Entries may be phrases; where several begin at a word the longest counts. Case does not matter.
    """

    type: Literal["lexicon"] = "lexicon"
    weights: dict[Entry, float] = Field(min_length=1, max_length=50_000, description="Word or phrase → weight.")
    per: Literal["answer", "word"] = Field("answer", description="`word`: divided by the answer's number of words.")

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], float]:
        return {tuple(words(entry)): weight for entry, weight in self.weights.items()}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._phrases))

    def of(self, answer: str) -> float:
        """0 for an answer without a listed word."""
        said = words(answer)
        total, place = [], 0
        while place < len(said):
            length = next(
                (n for n in range(self._longest, 0, -1) if tuple(said[place : place + n]) in self._phrases), 0
            )
            if length:
                total.append(self._phrases[tuple(said[place : place + length])])
            place += length or 1
        return math.fsum(total) / (len(said) or 1 if self.per == "word" else 1)
