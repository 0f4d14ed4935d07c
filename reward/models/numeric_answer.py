"""Whether an answer's number is the right one: the verifier of arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from pydantic import Field

from reward.errors import Invalid
from reward.inputs import AnyInput
from reward.models.base import Reward, Run, Worth, refuse_aggregation, texts_of
from reward.words import last_number


class NumericAnswer(Reward):
    """The first number after the last marker, or the answer's last number, against the reference's."""

    type: Literal["numeric_answer"] = "numeric_answer"
    marker: str | None = Field("####", min_length=1, description="Stands before the result, where it is used.")
    tolerance: float = Field(1e-6, ge=0, description="Largest difference that is still right.")
    right: float = 1.0
    wrong: float = 0.0
    missing: float = Field(0.0, description="For an answer without a number.")

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """`right`, `wrong` or `missing`. Raises Invalid for an input without a reference, or one without a number."""
        refuse_aggregation(self.type, run)
        return [Worth(self._of(given, f"input[{index}]")) for index, given in enumerate(inputs)]

    def _of(self, given: AnyInput, param: str) -> float:
        _, answer = texts_of(given, self.type, param)
        if given.reference is None:
            raise Invalid(f"{param} has no reference; numeric_answer compares with one", param=f"{param}.reference")
        truth = last_number(given.reference, self.marker)
        if truth is None:
            raise Invalid(f"{param} has a reference without a number", param=f"{param}.reference")
        found = last_number(answer, self.marker)
        if found is None:
            return self.missing
        return self.right if abs(found - truth) <= Decimal(self.tolerance) else self.wrong
