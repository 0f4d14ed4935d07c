"""How long an answer is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reward.models.base import TextReward
from reward.words import words_and_marks


class Length(TextReward):
    """min(n, cap) / scale − over · max(0, n − cap) / scale, of n words and marks, or characters."""

    type: Literal["length"] = "length"
    unit: Literal["words", "characters"] = "words"
    scale: float = Field(100.0, gt=0)
    cap: int | None = Field(None, ge=1, description="More than this earns nothing.")
    over: float = Field(0.0, ge=0, description="What each unit beyond the cap costs.")

    def of(self, answer: str) -> float:
        """The formula above."""
        n = len(answer) if self.unit == "characters" else len(words_and_marks(answer))
        cap = n if self.cap is None else self.cap
        return (min(n, cap) - self.over * max(0, n - cap)) / self.scale
