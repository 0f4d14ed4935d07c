"""Annotations: what is asked, their rows, and the moves between their states."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from reward.annotating import Selection
from reward.spec import AnyNamedReward, Frozen
from service import files, ids, pages, registry, reward_models
from service.db.tables import Annotation, now
from service.errors import Invalid, NotFound
from service.settings import Settings
from service.states import Status
from trainers.data.lines import BadLine
from trainers.data.prompts import read_prompts

UNFINISHED = (Status.QUEUED, Status.RUNNING)


class Sampling(Frozen):
    """How the policy answers."""

    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    max_tokens: int = Field(256, ge=1, le=8192)
    stop: list[str] = Field([], max_length=4)


class AnnotationSpec(Frozen):
    """The body of `POST /v1/annotations`."""

    prompts_file: str = Field(min_length=1, max_length=128, description="An uploaded file, one prompt a line.")
    model: str = Field(min_length=1, max_length=256, description="The policy that answers.")
    reward_model: AnyNamedReward
    n: int = Field(8, ge=2, le=64, description="Answers to each prompt.")
    sampling: Sampling = Sampling()
    selection: Selection = Selection()
    seed: int = Field(0, ge=0, lt=2**31)


def create(db: Session, spec: AnnotationSpec, *, tenant: str, settings: Settings) -> Annotation:
    """Queue an annotation. Raises NotFound or Invalid with the field that is wrong, or the prompts file's line."""
    registry.find(db, spec.model, tenant=tenant)
    found = reward_models.resolved(db, spec.reward_model, tenant=tenant, param="reward_model")
    for field, model in found.reward.models().items():
        registry.find(db, model, tenant=tenant, param=f"reward_model.{field}")
    reward_models.check_endpoints(found.reward, settings)
    file = files.get(db, spec.prompts_file, tenant=tenant, param="prompts_file")
    try:
        count = sum(1 for _ in read_prompts(settings.files / file.id))
    except BadLine as bad:
        raise Invalid(f"{file.filename}: {bad}", param="prompts_file") from bad
    # what a name means now is what it means for every prompt
    frozen = spec.model_copy(update={"reward_model": found.id or found.reward})
    row = Annotation(
        id=ids.new("annotation"),
        tenant=tenant,
        spec=frozen.model_dump(mode="json"),
        status=Status.QUEUED,
        prompts=count,
    )
    db.add(row)
    db.flush()
    return row


def get(db: Session, annotation: str, *, tenant: str) -> Annotation:
    """The caller's annotation; NotFound for a stranger's."""
    row = db.scalar(select(Annotation).where(Annotation.id == annotation, Annotation.tenant == tenant))
    if row is None:
        raise NotFound(f"there is no annotation {annotation!r}", param="annotation_id")
    return row


def listed(db: Session, page: pages.Page, *, tenant: str) -> pages.Slice[Annotation]:
    """The caller's annotations, newest first."""
    return pages.cut(db, select(Annotation).where(Annotation.tenant == tenant), Annotation, page)


def unfinished(db: Session) -> list[Annotation]:
    """What is to be worked on, oldest first."""
    found = select(Annotation).where(Annotation.status.in_(UNFINISHED))
    return list(db.scalars(found.order_by(Annotation.created_at, Annotation.id)))


def cancel(db: Session, row: Annotation) -> Annotation:
    """End it now; what is being sampled is thrown away. One that has ended stays as it is."""
    move(db, row.id, status=Status.CANCELLED, finished_at=now(), reason=None)
    db.refresh(row)
    return row


def move(db: Session, annotation: str, **values: Any) -> bool:
    """Change an unfinished annotation; False if it has ended meanwhile."""
    fenced = update(Annotation).where(Annotation.id == annotation, Annotation.status.in_(UNFINISHED)).values(values)
    return bool(db.connection().execute(fenced).rowcount)


def spec_of(row: Annotation) -> AnnotationSpec:
    """The spec of a row."""
    return AnnotationSpec.model_validate(row.spec)
