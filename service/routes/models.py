"""`/v1/models` and the engines behind them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service import checkpoints, registry
from service.db.tables import Policy
from service.errors import Invalid
from service.routes import Caller, Db, Parts, Reading
from service.views import Deleted, ListOf, ModelObject

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
def listing(caller: Caller, db: Reading) -> ListOf[ModelObject]:
    """The base models and the caller's own policies."""
    bases = [ModelObject.of(base) for base in registry.bases(db)]
    policies = [ModelObject.of(policy) for policy in registry.policies(db, tenant=caller.tenant)]
    return ListOf.of(bases + policies, has_more=False)


@router.get("/engines")
def engines(caller: Caller, db: Reading, parts: Parts) -> dict[str, Any]:
    """The vLLM engines of base models and of the caller's merged policies: state, and why one is not ready."""
    own = {model.name for model in registry.bases(db)} | {p.id for p in registry.policies(db, tenant=caller.tenant)}
    found = [engine for engine in parts.engines.status() if engine.base in own]
    listed = [{"object": "engine", "base": e.base, "state": e.state, "reason": e.reason} for e in found]
    return {"object": "list", "data": listed}


@router.get("/models/{model:path}")
def retrieve(model: str, caller: Caller, db: Reading) -> ModelObject:
    """One model."""
    return ModelObject.of(registry.find(db, model, tenant=caller.tenant))


@router.delete("/models/{model:path}")
def delete(model: str, caller: Caller, db: Db, parts: Parts) -> Deleted:
    """Stop serving a policy; its artifacts stay. Base models are the operator's."""
    found = registry.find(db, model, tenant=caller.tenant)
    if not isinstance(found, Policy):
        raise Invalid(f"{model} is a base model; only policies can be deleted", param="model")
    if checkpoints.is_one(found):
        raise Invalid(f"{model} is a checkpoint: it goes with its policy", param="model")
    parts.unload(registry.servable(db, found))
    registry.delete(db, found)
    return Deleted(id=model, object="model")
