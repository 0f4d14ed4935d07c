"""`POST /v1/rewards`: resolve the models a reward names, let the scoring process score."""

from __future__ import annotations

from fastapi import APIRouter

from reward.spec import ScoreList, ScoreOrder, ScoreRequest
from service.routes import Caller, Parts
from service.routes.inference import endpoint_of

router = APIRouter(prefix="/v1", tags=["rewards"])


@router.post("/rewards", response_model=ScoreList, response_model_exclude_none=True)
def score(request: ScoreRequest, caller: Caller, parts: Parts) -> ScoreList:
    """Score answers by the log-ratio of a strong over a weak model, token by token."""
    named = {"model.strong": request.model.strong, "model.weak": request.model.weak}
    endpoints = {model: endpoint_of(model, caller.tenant, parts, param) for param, model in named.items()}
    return parts.scoring.score(ScoreOrder(request=request, endpoints=endpoints))
