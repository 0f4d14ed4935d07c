"""log π_strong(y | x) − log π_weak(y | x), token by token (2411.02481; core.md section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from reward.aggregating import aggregated
from reward.domains import Domain, customised
from reward.engine import Engine
from reward.errors import Invalid
from reward.inputs import AnyInput, Masked
from reward.models.base import Aggregation, ByToken, Reward, Run, Worth
from reward.ratio import Ratio, ratios
from reward.routing import AnyRouter, Name, routed


class DensityRatio(Reward):
    """What the strong model learned over the weak one.

    R(x, y) = Σ_t log π_strong(y_t | g(x), y_<t) − log π_weak(y_t | g(x), y_<t), both models reading the same token
    ids, rendered once by the strong model's tokenizer and template; g is what `domains` adds to the prompt.
    """

    type: Literal["density_ratio"] = "density_ratio"
    strong: str = Field(min_length=1, max_length=256, description="Model id.")
    weak: str = Field(min_length=1, max_length=256, description="Model id.")
    aggregation: Literal["sum", "mean", "per_token_clipped"] = "sum"
    clip: float = Field(1.0, gt=0, description="`per_token_clipped`: each token counts at most ±clip nats.")
    alignment: Literal["token", "sequence"] = Field(
        "token", description="`sequence`: each model reads the text in its own tokens; no scores by token."
    )
    domains: dict[Name, Domain] = Field({}, description="What the models are told, by domain.")
    default_domain: Name = Field("chat", description="Where no router decides; may have no entry in `domains`.")
    router: AnyRouter | None = None
    seed: int = Field(0, ge=0, lt=2**31, description="Chooses the exemplars.")

    @model_validator(mode="after")
    def _one_thing_at_a_time(self) -> DensityRatio:
        if self.alignment == "sequence" and self.aggregation == "per_token_clipped":
            raise ValueError("alignment `sequence` has no scores by token to clip")
        if self.router is not None and not self.domains:
            raise ValueError("a router without domains decides nothing")
        return self

    def models(self) -> dict[str, str]:
        """Strong, weak, and the router's."""
        router = self.router.models() if self.router else {}
        return {"strong": self.strong, "weak": self.weak} | router

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input with both models at once."""
        strong = run.engine("strong model", "model.strong", self.strong)
        weak = run.engine("weak model", "model.weak", self.weak)
        if self.strong == self.weak:
            run.warn(f"strong and weak are one model, {self.strong}: every score is 0")
        domains, told = await self._told(inputs, strong, run)
        if self.alignment == "sequence":
            _refuse_masks(inputs)
            found = await ratios(told, strong, weak, run, own_tokens=True)
            return [self._whole(ratio, domain, run) for ratio, domain in zip(found, domains, strict=True)]
        found = await ratios(told, strong, weak, run)
        return [self._by_token(ratio, domain, run) for ratio, domain in zip(found, domains, strict=True)]

    async def _told(
        self, inputs: Sequence[AnyInput], strong: Engine, run: Run
    ) -> tuple[Sequence[str | None], Sequence[AnyInput]]:
        """Each input's domain, and the input as the models read it."""
        if not self.domains:
            return [None] * len(inputs), inputs
        known = list(dict.fromkeys([*self.domains, self.default_domain]))
        names = await routed(inputs, self.router, known, self.default_domain, run)
        facts = strong.link.endpoint.facts
        control = facts.control_tokens if facts else []
        told = [
            customised(given, self.domains.get(name, Domain()), seed=self.seed, control=control, param=f"input[{k}]")
            for k, (given, name) in enumerate(zip(inputs, names, strict=True))
        ]
        return names, told

    def _by_token(self, ratio: Ratio, domain: str | None, run: Run) -> Worth:
        return by_token(ratio, 1.0, run.aggregation or self.aggregation, clip=self.clip, domain=domain)

    def _whole(self, ratio: Ratio, domain: str | None, run: Run) -> Worth:
        how = run.aggregation or self.aggregation
        if how not in ("sum", "mean"):
            raise Invalid(f"alignment `sequence` has no scores by token for {how}", param="aggregation")
        score = ratio.total / len(ratio.strong) if how == "mean" else ratio.total
        sums = (sum(ratio.strong), sum(ratio.weak))
        return Worth(score, domain=domain, sums=sums, count=len(ratio.strong), prompt=_prompt(ratio))


def by_token(
    ratio: Ratio,
    beta: float,
    how: Aggregation,
    *,
    clip: float,
    steps: Sequence[float] | None = None,
    domain: str | None = None,
) -> Worth:
    """β times the ratio as a score with its tokens."""
    scores = [beta * (s - w) for s, w in zip(ratio.strong, ratio.weak, strict=True)]
    score = aggregated(scores, how, clip=clip, steps=steps)
    tokens = ByToken(
        scores=scores,
        strong=ratio.strong,
        weak=ratio.weak,
        prompt=_prompt(ratio),
        texts=ratio.texts,
        steps=list(steps) if steps is not None else None,
        truncated=ratio.row.truncated,
    )
    return Worth(score, tokens, domain=domain)


def _prompt(ratio: Ratio) -> int:
    return len(ratio.row.ids) - len(ratio.row.scored)


def _refuse_masks(inputs: Sequence[AnyInput]) -> None:
    for index, given in enumerate(inputs):
        if isinstance(given, Masked):
            raise Invalid(f"input[{index}]: a response_mask is about tokens; alignment `sequence` has none in common")
