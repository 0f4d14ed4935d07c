"""Whether an answer has a form: tags in place, JSON alone, no apology."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from reward.inputs import AnyInput
from reward.matching import matches
from reward.models.base import Reward, Run, Worth, refuse_aggregation, texts_of


class Regex(Reward):
    """`match` for an answer that the pattern is found in, `miss` for all others."""

    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=1000, description="As Python's re has it.")
    whole: bool = Field(False, description="The whole answer must match, not a part of it.")
    ignore_case: bool = False
    match: float = 1.0
    miss: float = 0.0

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input by its answer's text."""
        refuse_aggregation(self.type, run)
        answers = [texts_of(given, self.type, f"input[{k}]")[1] for k, given in enumerate(inputs)]
        found = await matches(self.pattern, answers, whole=self.whole, ignore_case=self.ignore_case)
        return [Worth(self.match if hit else self.miss) for hit in found]
