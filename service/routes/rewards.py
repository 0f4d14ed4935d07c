"""`POST /v1/rewards` and what is made of scores: comparisons and evaluations."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter

from reward.comparing import compared
from reward.evaluating import Evaluation
from reward.spec import CompareRequest, ComparisonList, ScoreList, ScoreRequest
from service import evaluations
from service.evaluations import EvaluationRequest
from service.routes import Caller, Parts

router = APIRouter(prefix="/v1/rewards", tags=["rewards"])


@router.post("", response_model=ScoreList, response_model_exclude_none=True)
async def score(request: ScoreRequest, caller: Caller, parts: Parts) -> ScoreList:
    """Score answers by a stored reward model, or by a reward given here."""
    return await to_thread.run_sync(parts.scores.score, request, caller.tenant, limiter=parts.waiting)


@router.post("/compare", response_model=ComparisonList, response_model_exclude_none=True)
async def compare(request: CompareRequest, caller: Caller, parts: Parts) -> ComparisonList:
    """The probability that the first answer of each pair is the better one."""
    asked = request.as_scores()
    return compared(await to_thread.run_sync(parts.scores.score, asked, caller.tenant, limiter=parts.waiting))


@router.post("/evaluate", response_model=Evaluation, response_model_exclude_none=True)
async def evaluate(request: EvaluationRequest, caller: Caller, parts: Parts) -> Evaluation:
    """Pairwise accuracy of a reward on a preference file, per subset, with confidence intervals."""
    return await to_thread.run_sync(evaluations.evaluate, request, caller.tenant, parts, limiter=parts.waiting)
