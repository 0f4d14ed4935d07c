"""`/v1/chat/completions` and `/v1/completions`: vLLM's own, behind our keys and names."""

from __future__ import annotations

from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Body, Response

from reward.spec import Endpoint
from service import registry
from service.errors import Invalid
from service.routes import Caller, Parts
from service.serving.gateway import forward

router = APIRouter(prefix="/v1", tags=["inference"])


@router.post("/chat/completions")
async def chat(caller: Caller, parts: Parts, body: dict[str, Any] = Body()) -> Response:  # noqa: B008
    """Chat with a base model or a policy; an engine that is not running starts first."""
    return await _answer("chat/completions", body, caller, parts)


@router.post("/completions")
async def complete(caller: Caller, parts: Parts, body: dict[str, Any] = Body()) -> Response:  # noqa: B008
    """Continue a text or token ids with a base model or a policy."""
    return await _answer("completions", body, caller, parts)


async def _answer(
    route: Literal["chat/completions", "completions"], body: dict[str, Any], caller: Caller, parts: Parts
) -> Response:
    model = body.get("model")
    if not isinstance(model, str):
        raise Invalid("model: a model's id is required", param="model")
    endpoint = await to_thread.run_sync(_endpoint, model, caller.tenant, parts, limiter=parts.waiting)
    return await forward(
        body, route=route, public_id=model, endpoint=endpoint, tenant=caller.tenant, client=parts.client
    )


def _endpoint(model: str, tenant: str, parts: Parts) -> Endpoint:
    with parts.database.snapshot() as db:
        servable = registry.servable(db, registry.find(db, model, tenant=tenant))
    return parts.engines.endpoint(servable)
