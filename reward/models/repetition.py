"""How little an answer repeats itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reward.models.base import TextReward
from reward.words import distinct_share, words_and_marks


class Repetition(TextReward):
    """Distinct n-grams over n-grams of words and marks, in (0, 1]; 1 for answers shorter than n."""

    type: Literal["repetition"] = "repetition"
    n: int = Field(3, ge=1, le=16)

    def of(self, answer: str) -> float:
        """The share."""
        return distinct_share(words_and_marks(answer), self.n)
