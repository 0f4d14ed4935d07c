"""`POST /v1/rewards`: resolve the models a reward names, let the scoring process score."""

from __future__ import annotations

from fastapi import APIRouter

from reward.spec import ScoreList, ScoreOrder, ScoreRequest
from service import registry
from service.routes import Caller, Parts

router = APIRouter(prefix="/v1", tags=["rewards"])


@router.post("/rewards", response_model=ScoreList, response_model_exclude_none=True)
def score(request: ScoreRequest, caller: Caller, parts: Parts) -> ScoreList:
    """Score answers by the log-ratio of a strong over a weak model, token by token."""
    named = {"model.strong": request.model.strong, "model.weak": request.model.weak}
    with parts.database.snapshot() as db:
        found = [registry.find(db, model, tenant=caller.tenant, param=param) for param, model in named.items()]
        servables = [registry.servable(db, model) for model in found]
    endpoints = {servable.id: parts.engines.endpoint(servable) for servable in servables}
    return parts.scoring.score(ScoreOrder(request=request, endpoints=endpoints))
