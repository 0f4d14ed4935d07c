"""`POST /v1/rewards`: resolve the models a reward names, let the scoring process score."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter

from reward.spec import ScoreList, ScoreOrder, ScoreRequest
from service import registry
from service.errors import Invalid
from service.routes import Caller, Parts

router = APIRouter(prefix="/v1", tags=["rewards"])


@router.post("/rewards", response_model=ScoreList, response_model_exclude_none=True)
async def score(request: ScoreRequest, caller: Caller, parts: Parts) -> ScoreList:
    """Score answers by the log-ratio of a strong over a weak model, token by token."""
    return await to_thread.run_sync(_score, request, caller.tenant, parts, limiter=parts.waiting)


def _score(request: ScoreRequest, tenant: str, parts: Parts) -> ScoreList:
    with parts.database.snapshot() as db:
        found = [registry.find(db, id_, tenant=tenant, param=field) for field, id_ in request.model.models().items()]
        servables = [registry.servable(db, model) for model in found]
    bases, most = {servable.base for servable in servables}, parts.settings.engine.max_engines
    if len(bases) > most:
        raise Invalid(f"this reward needs {len(bases)} engines at once; the service runs {most}", param="model")
    endpoints = {servable.id: parts.engines.endpoint(servable) for servable in servables}
    return parts.scoring.score(ScoreOrder(request=request, endpoints=endpoints))
