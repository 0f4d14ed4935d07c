"""β (log π(y | x) − log π_ref(y | x)) of a preference-tuned policy over its own start (2305.18290, 2412.01981)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from reward.errors import Invalid
from reward.inputs import AnyInput
from reward.models.base import Reward, Run, Worth
from reward.models.density_ratio import by_token
from reward.ratio import Ratio, ratios


class Implicit(Reward):
    """The reward that a DPO or SparsePO policy is the optimum of, and its process rewards for free.

    q_t = β Σ_{i≤t} log π(y_i) − log π_ref(y_i); a step is worth q at its end less q at the end of the one before it,
    so steps add up to the whole.
    """

    type: Literal["implicit"] = "implicit"
    policy: str = Field(min_length=1, max_length=256, description="A finished job's id, or its policy's.")
    reference: str | None = Field(
        None, min_length=1, max_length=256, description="Model id; None: what the job started from."
    )
    beta: float | None = Field(None, gt=0, description="None: the job's own.")
    aggregation: Literal["sum", "mean", "per_token_clipped", "min_step"] = "sum"
    clip: float = Field(1.0, gt=0, description="`per_token_clipped`: each token counts at most ±clip.")
    step_delimiter: str | None = Field(None, min_length=1, description="Ends a step, with the token it ends in.")

    def models(self) -> dict[str, str]:
        """Policy and, once it is resolved, reference."""
        return {"policy": self.policy} | ({"reference": self.reference} if self.reference else {})

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input; only where reference and beta are resolved."""
        if self.reference is None or self.beta is None:
            raise Invalid("reference and beta are known only to the service that ran the job", param="model")
        policy = run.engine("policy", "model.policy", self.policy)
        reference = run.engine("reference", "model.reference", self.reference)
        if self.step_delimiter is not None:
            run = replace(run, texts=True)
        how, beta = run.aggregation or self.aggregation, self.beta
        found = await ratios(inputs, policy, reference, run)
        return [by_token(ratio, beta, how, clip=self.clip, steps=self._steps(ratio)) for ratio in found]

    def _steps(self, ratio: Ratio) -> list[float] | None:
        """Each step's reward; what follows the last delimiter is a step unless it is blank."""
        if self.step_delimiter is None or ratio.texts is None or self.beta is None:
            return None
        steps: list[list[float]] = [[]]
        text = ""
        for piece, strong, weak in zip(ratio.texts, ratio.strong, ratio.weak, strict=True):
            if self.step_delimiter in text and piece.strip() and text.strip():
                steps.append([])
                text = ""
            steps[-1].append(self.beta * (strong - weak))
            text += piece
        return [math.fsum(step) for step in steps]
