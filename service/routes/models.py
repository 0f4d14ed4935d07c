"""`/v1/models` and the engines behind them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from service import registry
from service.db.tables import Policy
from service.errors import Invalid
from service.routes import Caller, Parts, Reading
from service.views import Deleted, ListOf, ModelObject

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
def listing(caller: Caller, db: Reading) -> ListOf[ModelObject]:
    """The base models and the caller's own policies."""
    bases = [ModelObject.of(base) for base in registry.bases(db)]
    policies = [ModelObject.of(policy) for policy in registry.policies(db, tenant=caller.tenant)]
    return ListOf.of(bases + policies, has_more=False)


@router.get("/engines")
def engines(parts: Parts) -> dict[str, Any]:
    """The running vLLM engines: base model, state, and the reason where one is not ready."""
    listed = [{"object": "engine", **asdict(status)} for status in parts.engines.status()]
    return {"object": "list", "data": listed}


@router.get("/models/{model:path}")
def retrieve(model: str, caller: Caller, db: Reading) -> ModelObject:
    """One model."""
    return ModelObject.of(registry.find(db, model, tenant=caller.tenant))


@router.delete("/models/{model:path}")
async def delete(model: str, caller: Caller, parts: Parts) -> Deleted:
    """Stop serving a policy; its artifacts stay. Base models are the operator's."""
    await run_in_threadpool(_delete, model, caller.tenant, parts)
    return Deleted(id=model, object="model")


def _delete(model: str, tenant: str, parts: Parts) -> None:
    with parts.database.transaction() as db:
        found = registry.find(db, model, tenant=tenant)
        if not isinstance(found, Policy):
            raise Invalid(f"{model} is a base model; only policies can be deleted", param="model")
        servable = registry.servable(db, found)
        registry.delete(db, found)
    parts.engines.unload(servable)
