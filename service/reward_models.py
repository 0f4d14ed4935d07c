"""Reward models: rewards under a name and a version, with every model in them resolved to an id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, TypeAdapter
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from reward.spec import AnyNamedReward, AnyReward, Composite, Frozen, Implicit
from service import ids, jobs, pages, registry
from service.db.tables import Policy, RewardModel, now
from service.errors import Invalid, NotFound
from service.settings import Settings

PREFIX, JOB = "rm", "ftjob-"
#: composites inside composites
DEEPEST = 4
#: methods whose policy is the optimum of the reward that its log-ratio is
IMPLICIT = ("dpo", "sparsepo")
SPEC: TypeAdapter[AnyReward] = TypeAdapter(AnyReward)


class NewRewardModel(Frozen):
    """The body of `POST /v1/reward_models`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    reward: AnyNamedReward = Field(description="Its settings; a name copies a stored one's.")


@dataclass(frozen=True)
class Resolved:
    """A reward without names in it, and the stored one that it is, if any."""

    reward: AnyReward
    id: str | None = None


def create(db: Session, asked: NewRewardModel, *, tenant: str, settings: Settings) -> RewardModel:
    """Store a reward as the next version of its name. Raises NotFound or Invalid with the field that is wrong."""
    reward = resolved(db, asked.reward, tenant=tenant, param="reward").reward
    for field, model in reward.models().items():
        registry.find(db, model, tenant=tenant, param=f"reward.{field}")
    for field, name in reward.services().items():
        _check_endpoint(name, settings, f"reward.{field}")
    own = select(func.max(RewardModel.version)).where(RewardModel.tenant == tenant, RewardModel.name == asked.name)
    row = RewardModel(
        id=ids.new(PREFIX),
        tenant=tenant,
        name=asked.name,
        version=(db.scalar(own) or 0) + 1,
        spec=reward.model_dump(mode="json"),
    )
    db.add(row)
    db.flush()
    return row


def get(db: Session, named: str, *, tenant: str, param: str = "model") -> RewardModel:
    """The caller's reward model by id, by name (its newest version) or by `name@version`; NotFound otherwise."""
    mine = select(RewardModel).where(RewardModel.tenant == tenant, RewardModel.deleted_at.is_(None))
    name, _, version = named.partition("@")
    found = db.scalar(mine.where(RewardModel.id == named))
    if found is None:
        versions = mine.where(RewardModel.name == name).order_by(RewardModel.version.desc())
        if version:
            versions = versions.where(RewardModel.version == (int(version) if version.isdecimal() else -1))
        found = db.scalar(versions.limit(1))
    if found is None:
        raise NotFound(f"there is no reward model {named!r}", param=param, code="reward_model_not_found")
    return found


def listed(db: Session, page: pages.Page, *, tenant: str, name: str | None) -> pages.Slice[RewardModel]:
    """The caller's reward models, every version."""
    mine = select(RewardModel).where(RewardModel.tenant == tenant, RewardModel.deleted_at.is_(None))
    return pages.cut(db, mine if name is None else mine.where(RewardModel.name == name), RewardModel, page)


def delete(db: Session, row: RewardModel) -> None:
    """Stop offering a version; its number is not used again."""
    db.execute(update(RewardModel).where(RewardModel.id == row.id).values(deleted_at=now()))


def reward_of(row: RewardModel) -> AnyReward:
    """The settings of a row."""
    return SPEC.validate_python(row.spec)


def resolved(db: Session, asked: AnyNamedReward, *, tenant: str, param: str, depth: int = 0) -> Resolved:
    """A reward with what its names mean now. Raises NotFound or Invalid with the field that is wrong."""
    if depth > DEEPEST:
        raise Invalid(f"composites go {DEEPEST} deep at most", param=param)
    if isinstance(asked, str):
        row = get(db, asked, tenant=tenant, param=param)
        return Resolved(reward_of(row), row.id)
    if isinstance(asked, Implicit):
        return Resolved(_implicit(db, asked, tenant=tenant, param=param))
    if not isinstance(asked, Composite):
        return Resolved(asked)
    components = []
    for index, component in enumerate(asked.components):
        place = f"{param}.components[{index}].reward"
        inner = resolved(db, component.reward, tenant=tenant, param=place, depth=depth + 1).reward
        components.append(component.model_copy(update={"reward": inner}))
    return Resolved(asked.model_copy(update={"components": components}))


def check_endpoints(reward: AnyReward, settings: Settings) -> None:
    """Raises Invalid for an endpoint that the operator has not named."""
    for field, name in reward.services().items():
        _check_endpoint(name, settings, f"model.{field}")


def _check_endpoint(name: str, settings: Settings, param: str) -> None:
    if name not in settings.reward_endpoints:
        known = ", ".join(sorted(settings.reward_endpoints)) or "none"
        raise Invalid(f"there is no reward endpoint {name!r}; the operator has named {known}", param=param)


def _implicit(db: Session, asked: Implicit, *, tenant: str, param: str) -> Implicit:
    """Policy, reference and beta of the job that is named, or of the one that made the policy."""
    if asked.policy.startswith(JOB):
        job = jobs.get(db, asked.policy, tenant=tenant, param=f"{param}.policy")
        if job.model is None:
            raise Invalid(f"job {job.id} has no policy: it is {job.status.value}", param=f"{param}.policy")
    else:
        policy = registry.find(db, asked.policy, tenant=tenant, param=f"{param}.policy")
        if not isinstance(policy, Policy):
            return _complete(asked, {}, param)
        job = jobs.get(db, policy.job, tenant=tenant)
    spec = jobs.spec_of(job)
    if asked.beta is None and spec.method.type not in IMPLICIT:
        said = f"job {job.id} is {spec.method.type}: only {' and '.join(IMPLICIT)} define an implicit reward"
        raise Invalid(f"{said}; give beta to score by the log-ratio all the same", param=f"{param}.policy")
    known: dict[str, Any] = {"policy": job.model, "reference": asked.reference or spec.model}
    if asked.beta is None:
        known["beta"] = getattr(spec.method.objective, "beta")  # noqa: B009 - the two methods have one
    return _complete(asked, known, param)


def _complete(asked: Implicit, known: dict[str, Any], param: str) -> Implicit:
    complete = asked.model_copy(update=known)
    if complete.reference is None or complete.beta is None:
        said = f"{asked.policy} is no job's policy: give reference and beta"
        raise Invalid(said, param=f"{param}.policy")
    return complete
