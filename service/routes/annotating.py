"""`/v1/annotations`: prompts in, preference pairs out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service import annotating
from service.annotating import AnnotationSpec
from service.pages import Page
from service.routes import Caller, Db, Parts, Reading
from service.views import AnnotationObject, ListOf

router = APIRouter(prefix="/v1/annotations", tags=["rewards"])


@router.post("")
def create(spec: AnnotationSpec, caller: Caller, db: Db, parts: Parts) -> AnnotationObject:
    """Have a policy answer prompts and a reward model rank the answers; the result is a training file."""
    return AnnotationObject.of(annotating.create(db, spec, tenant=caller.tenant, settings=parts.settings))


@router.get("")
def listing(
    caller: Caller,
    db: Reading,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListOf[AnnotationObject]:
    """The caller's annotations, newest first."""
    found = annotating.listed(db, Page(limit, after), tenant=caller.tenant)
    return ListOf.of([AnnotationObject.of(row) for row in found.rows], has_more=found.has_more)


@router.get("/{annotation_id}")
def retrieve(annotation_id: str, caller: Caller, db: Reading) -> AnnotationObject:
    """One, with its progress."""
    return AnnotationObject.of(annotating.get(db, annotation_id, tenant=caller.tenant))


@router.post("/{annotation_id}/cancel")
def cancel(annotation_id: str, caller: Caller, db: Db) -> AnnotationObject:
    """End it; one that has ended stays as it is."""
    return AnnotationObject.of(annotating.cancel(db, annotating.get(db, annotation_id, tenant=caller.tenant)))
