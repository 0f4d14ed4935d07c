"""`/v1/reward_models`: rewards under names, in versions."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from service import reward_models
from service.pages import Page
from service.reward_models import NewRewardModel
from service.routes import Caller, Db, Parts, Reading
from service.views import Deleted, ListOf, RewardModelObject

router = APIRouter(prefix="/v1/reward_models", tags=["rewards"])


@router.post("")
def create(asked: NewRewardModel, caller: Caller, db: Db, parts: Parts) -> RewardModelObject:
    """Store a reward; under a name that is there already it becomes the next version."""
    row = reward_models.create(db, asked, tenant=caller.tenant, settings=parts.settings)
    return RewardModelObject.of(row)


@router.get("")
def listing(
    caller: Caller,
    db: Reading,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    name: str | None = None,
) -> ListOf[RewardModelObject]:
    """The caller's reward models, every version, newest first."""
    found = reward_models.listed(db, Page(limit, after, order), tenant=caller.tenant, name=name)
    return ListOf.of([RewardModelObject.of(row) for row in found.rows], has_more=found.has_more)


@router.get("/{model}")
def retrieve(model: str, caller: Caller, db: Reading) -> RewardModelObject:
    """One by id, by name (its newest version) or by name@version."""
    return RewardModelObject.of(reward_models.get(db, model, tenant=caller.tenant))


@router.delete("/{model}")
def delete(model: str, caller: Caller, db: Db) -> Deleted:
    """Stop offering one version; what was labelled with it keeps its provenance."""
    row = reward_models.get(db, model, tenant=caller.tenant)
    reward_models.delete(db, row)
    return Deleted(id=row.id, object="reward_model")
