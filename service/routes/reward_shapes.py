"""Scores in the shapes of others: vLLM, Cohere and Jina, OpenRLHF, OpenAI's graders. All ask `POST /v1/rewards`."""

from __future__ import annotations

import time
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query

from reward.shapes import ClassifyShape, GetRewardShape, GraderRun, RerankShape, ScoreShape
from reward.spec import ScoreList, ScoreRequest
from service.routes import Caller, Parts
from service.scores import asked_by

router = APIRouter(tags=["rewards, other shapes"])


@router.post("/score")
@router.post("/v1/score")
async def score(body: ScoreShape, caller: Caller, parts: Parts) -> dict[str, Any]:
    """vLLM's: documents after queries."""
    return body.answer(await _scored(asked_by(body), caller, parts))


@router.post("/rerank")
@router.post("/v1/rerank")
@router.post("/v2/rerank")
async def rerank(body: RerankShape, caller: Caller, parts: Parts) -> dict[str, Any]:
    """vLLM's, Cohere's and Jina's: documents for a query, best first."""
    return body.answer(await _scored(asked_by(body), caller, parts))


@router.post("/classify")
@router.post("/v1/classify")
async def classify(body: ClassifyShape, caller: Caller, parts: Parts) -> dict[str, Any]:
    """vLLM's, as verl asks it: the score is the only class's `probs`."""
    return body.answer(await _scored(asked_by(body), caller, parts))


@router.post("/get_reward")
async def get_reward(
    model: Annotated[str, Query(min_length=1, description="OpenRLHF sends none: it is named in the URL.")],
    body: GetRewardShape,
    caller: Caller,
    parts: Parts,
) -> dict[str, Any]:
    """OpenRLHF's remote reward."""
    named = body.model_copy(update={"model": model})
    return body.answer(await _scored(asked_by(named), caller, parts))


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(body: GraderRun, caller: Caller, parts: Parts) -> dict[str, Any]:
    """OpenAI's, for graders of type `score_model` whose model is a reward model."""
    began = time.perf_counter()
    scored = await _scored(asked_by(body), caller, parts)
    return body.answer(scored, time.perf_counter() - began)


async def _scored(request: ScoreRequest, caller: Caller, parts: Parts) -> ScoreList:
    return await to_thread.run_sync(parts.scores.score, request, caller.tenant, limiter=parts.waiting)
