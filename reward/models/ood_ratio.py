"""How far a text lies outside what a model was tuned on: log π_pre − log π_ft (2404.08679)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from reward.errors import Invalid
from reward.inputs import AnyInput
from reward.models.base import Reward, Run, Worth
from reward.models.density_ratio import by_token
from reward.ratio import ratios
from reward.tokens import Tokens


class OodRatio(Reward):
    """log π_pre(y) − log π_ft(y), higher for what is more foreign to the tuned model."""

    type: Literal["ood_ratio"] = "ood_ratio"
    pretrained: str = Field(min_length=1, max_length=256, description="Model id.")
    finetuned: str = Field(min_length=1, max_length=256, description="Model id.")
    part: Literal["answer", "prompt", "both"] = Field(
        "answer", description="What is scored: the answer given the prompt, the prompt, or both as one text."
    )
    aggregation: Literal["sum", "mean", "per_token_clipped"] = "mean"
    clip: float = Field(1.0, gt=0, description="`per_token_clipped`: each token counts at most ±clip nats.")

    def models(self) -> dict[str, str]:
        """Both."""
        return {"pretrained": self.pretrained, "finetuned": self.finetuned}

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input."""
        tuned = run.engine("tuned model", "model.finetuned", self.finetuned)
        before = run.engine("pretrained model", "model.pretrained", self.pretrained)
        found = await ratios(inputs, tuned, before, run, select=self._select)
        how = run.aggregation or self.aggregation
        turned = [replace(ratio, strong=ratio.weak, weak=ratio.strong) for ratio in found]
        return [by_token(ratio, 1.0, how, clip=self.clip) for ratio in turned]

    def _select(self, index: int, row: Tokens) -> Tokens:
        if self.part == "answer":
            return row
        if self.part == "prompt" and row.start < 2:
            raise Invalid(
                f"input[{index}] has a prompt of one token, which depends on nothing", param=f"input[{index}]"
            )
        end = len(row.ids) if self.part == "both" else row.start
        return replace(row, scored=list(range(1, end)))
