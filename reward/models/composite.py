"""Several rewards as one: weighted, clipped, standardised, each where it belongs (2403.01197's outer layer)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from reward.errors import Invalid, Refusal
from reward.frozen import Frozen
from reward.inputs import AnyInput
from reward.models.base import Reward, Run, Worth, refuse_aggregation
from reward.normalizing import standardized
from reward.routing import AnyRouter, Name, routed
from reward.together import together

if TYPE_CHECKING:
    from reward.models import AnyNamedReward


class Scale(Frozen):
    """Known moments: (r − mean) / std."""

    mean: float
    std: float = Field(gt=0)


class Component(Frozen):
    """One reward of several: weight · clip(standardised r)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    reward: AnyNamedReward = Field(description="A reward, or the name of a stored one.")
    weight: float = 1.0
    standardize: Literal["none", "batch", "group"] | Scale = Field(
        "none", description="By the moments of the request's inputs, of each group's, or by known ones; then clipped."
    )
    clip: tuple[float, float] | None = Field(None, description="Least and greatest value, before the weight.")
    domains: list[Name] | None = Field(None, min_length=1, description="Only where routed there; None: everywhere.")

    @model_validator(mode="after")
    def _ordered(self) -> Component:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError("clip must be the least value and then a greater one")
        return self


class Composite(Reward):
    """R = Σ_k weight_k · clip_k(standardize_k(r_k)), over the components of the input's domain."""

    type: Literal["composite"] = "composite"
    components: list[Component] = Field(min_length=1, max_length=16)
    router: AnyRouter | None = None
    default_domain: Name = "chat"

    @model_validator(mode="after")
    def _consistent(self) -> Composite:
        names = [component.name for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError("two components have one name")
        if not self._of(self.default_domain):
            raise ValueError(f"no component scores the default domain {self.default_domain}")
        return self

    def models(self) -> dict[str, str]:
        """Those of all components, and the router's."""
        found = self.router.models() if self.router else {}
        for prefix, reward in self.rewards():
            found |= {f"{prefix}.{field}": model for field, model in reward.models().items()}
        return found

    def services(self) -> dict[str, str]:
        """Those of all components."""
        pairs = [(prefix, reward.services()) for prefix, reward in self.rewards()]
        return {f"{prefix}.{field}": name for prefix, found in pairs for field, name in found.items()}

    def rewards(self) -> Iterator[tuple[str, Reward]]:
        """Each component's field and reward. Raises Invalid for one that is still a name."""
        for index, component in enumerate(self.components):
            field = f"components[{index}].reward"
            if isinstance(component.reward, str):
                raise Invalid(f"{component.reward} is a stored reward's name; the service knows those", param=field)
            yield field, component.reward

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Each component scores the inputs of its domains, all components at once."""
        refuse_aggregation(self.type, run)
        names = [k for component in self.components for k in component.domains or []]
        known = list(dict.fromkeys([*names, self.default_domain]))
        domains = await routed(inputs, self.router, known, self.default_domain, run)
        shares = await together([self._shares(k, inputs, domains, run) for k in range(len(self.components))])
        return [self._sum(index, shares, domain) for index, domain in enumerate(domains)]

    async def _shares(
        self, k: int, inputs: Sequence[AnyInput], domains: Sequence[str], run: Run
    ) -> dict[int, tuple[float, Worth]]:
        """One component's weighted share and what it said, by input."""
        component, reward = self.components[k], dict(self.rewards())[f"components[{k}].reward"]
        places = [index for index, domain in enumerate(domains) if component in self._of(domain)]
        if not places:
            return {}
        groups = [run.groups[index] for index in places] if run.groups is not None else None
        inner = replace(run, groups=groups, texts=False)
        try:
            found = await reward.worth([inputs[index] for index in places], inner)
        except Refusal as refusal:
            raise _placed(refusal, component.name, places) from refusal
        values = _clipped(component, [worth.score for worth in found], groups)
        return {
            index: (component.weight * value, worth) for index, value, worth in zip(places, values, found, strict=True)
        }

    def _sum(self, index: int, shares: Sequence[dict[int, tuple[float, Worth]]], domain: str) -> Worth:
        mine = {c.name: share[index] for c, share in zip(self.components, shares, strict=True) if index in share}
        parts = {name: part for name, (part, _) in mine.items()}
        return Worth(math.fsum(parts.values()), parts=parts, domain=domain if self.router else None)

    def _of(self, domain: str) -> list[Component]:
        return [component for component in self.components if component.domains is None or domain in component.domains]


def _placed(refusal: Refusal, name: str, places: Sequence[int]) -> Refusal:
    """A component sees only its own inputs: its refusal, with the place in the caller's list."""
    said, param = refusal.message, refusal.param
    for inner in sorted(range(len(places)), reverse=True):
        if f"input[{inner}]" in said:
            said = said.replace(f"input[{inner}]", f"input[{places[inner]}]")
            param = param.replace(f"input[{inner}]", f"input[{places[inner]}]") if param else param
            break
    return type(refusal)(f"component {name}: {said}", param=param)


def _clipped(component: Component, scores: list[float], groups: Sequence[int] | None) -> list[float]:
    how = component.standardize
    if isinstance(how, Scale):
        scores = [(score - how.mean) / how.std for score in scores]
    elif how != "none":
        groups_of: dict[int, list[int]] = defaultdict(list)
        for place in range(len(scores)):
            groups_of[groups[place] if groups is not None and how == "group" else 0].append(place)
        scores = standardized(scores, list(groups_of.values()))
    if component.clip is None:
        return scores
    low, high = component.clip
    return [max(low, min(high, score)) for score in scores]
