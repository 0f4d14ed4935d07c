"""From an order to scores: the reward scores, what was asked for is kept, and where it all came from is said."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence

import httpx

from reward.cache import Cache
from reward.endpoints import Endpoint
from reward.engine import Engine, Link, Scored
from reward.errors import Broken, Invalid
from reward.models import ByToken, Reward, Run, Worth
from reward.normalizing import normalized
from reward.spec import ModelProvenance, Part, Provenance, Score, ScoreList, ScoreOrder, ScoreRequest, Usage
from reward.together import together

LINKS = 64


class Scorer:
    """Carries orders out; orders at the same time share links to engines, their batches and the cache."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._links: dict[tuple[str, ...], Link] = {}
        self.cache: Cache[Scored] = Cache()

    async def carry_out(self, order: ScoreOrder) -> ScoreList:
        """Score every input of the order.

        Raises Invalid naming the input or field that is wrong, Unavailable if an engine does not answer, Broken if
        it does not answer with numbers: never a score that is not the reward's.
        """
        request, reward = order.request, _spec(order.request)
        run = self._run(order)
        worths = await reward.worth(request.input, run)
        provenance = Provenance(reward_sha256=digest(reward), models=await self._provenance(reward, order.endpoints))
        return ScoreList(
            model=request.model,
            data=_scores(worths, request),
            usage=_usage(worths),
            provenance=provenance,
            warnings=run.warnings,
            routed=dict(run.routed) or None,
        )

    def _run(self, order: ScoreOrder) -> Run:
        request = order.request

        def engine(role: str, field: str, model: str) -> Engine:
            if model not in order.endpoints:
                raise Invalid(f"no endpoint is given for the {role} {model}", param=field)
            return Engine(role, self._link(order.endpoints[model]))

        return Run(
            engine=engine,
            services=order.services,
            client=self._client,
            aggregation=request.aggregation,
            texts=bool(request.include),
            truncate=request.truncation == "left",
            max_tokens=request.max_tokens,
            groups=request.group_ids,
        )

    def _link(self, endpoint: Endpoint) -> Link:
        key = (endpoint.url, endpoint.name, endpoint.key, endpoint.facts.digest if endpoint.facts else "")
        if key not in self._links:
            if len(self._links) >= LINKS:  # engines that were started again have new addresses
                del self._links[next(iter(self._links))]
            self._links[key] = Link(endpoint, self._client, self.cache)
        return self._links[key]

    async def _provenance(self, reward: Reward, endpoints: Mapping[str, Endpoint]) -> dict[str, ModelProvenance]:
        named = reward.models()
        found = await together([self._of(model, endpoints[model]) for model in named.values()])
        return dict(zip(named, found, strict=True))

    async def _of(self, model: str, endpoint: Endpoint) -> ModelProvenance:
        engine = await Engine(model, self._link(endpoint)).version()
        known = endpoint.facts.model_dump(exclude={"control_tokens"}) if endpoint.facts else {}
        return ModelProvenance(id=model, engine=engine, **known)


def digest(reward: Reward) -> str:
    """SHA-256 of a reward's settings."""
    text = json.dumps(reward.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _spec(request: ScoreRequest) -> Reward:
    if isinstance(request.model, str):
        raise Invalid(f"{request.model} is a stored reward's name; the service knows those", param="model")
    return request.model


def _scores(worths: Sequence[Worth], request: ScoreRequest) -> list[Score]:
    raw = [worth.score for worth in worths]
    for index, value in enumerate(raw):
        if not math.isfinite(value):
            raise Broken(f"input[{index}] came out as {value}", param=f"input[{index}]")
    changed = normalized(raw, request.normalization, request.group_ids)
    kept = request.normalization != "none"
    return [
        _score(index, worth, changed[index], request.include).model_copy(
            update={"raw_score": raw[index] if kept else None}
        )
        for index, worth in enumerate(worths)
    ]


def _score(index: int, worth: Worth, score: float, wanted: Sequence[Part]) -> Score:
    tokens = worth.by_token
    strong, weak = worth.sums or (None, None)
    if tokens is None:
        return Score(
            index=index,
            score=score,
            num_scored_tokens=worth.count,
            strong_logprob=strong,
            weak_logprob=weak,
            parts=dict(worth.parts) or None,
            domain=worth.domain,
        )
    return Score(
        index=index,
        score=score,
        num_scored_tokens=len(tokens.scores),
        strong_logprob=math.fsum(tokens.strong),
        weak_logprob=math.fsum(tokens.weak),
        tokens=tokens.texts if wanted else None,
        domain=worth.domain,
        truncated=tokens.truncated or None,
        **_lists(tokens, wanted),
    )


def _lists(tokens: ByToken, wanted: Sequence[Part]) -> dict[str, list[float] | None]:
    found: dict[str, list[float] | None] = {}
    if "token_scores" in wanted:
        found["token_scores"] = tokens.scores
    if "cumulative_scores" in wanted:
        found["cumulative_scores"] = list(itertools.accumulate(tokens.scores))
    if "step_scores" in wanted:
        found["step_scores"] = tokens.steps
    if "logprobs" in wanted:
        found |= {"strong_logprobs": tokens.strong, "weak_logprobs": tokens.weak}
    return found


def _usage(worths: Sequence[Worth]) -> Usage:
    prompt = sum(worth.by_token.prompt if worth.by_token else worth.prompt for worth in worths)
    scored = sum(len(worth.by_token.scores) if worth.by_token else worth.count for worth in worths)
    return Usage(prompt_tokens=prompt, total_tokens=prompt + scored)
