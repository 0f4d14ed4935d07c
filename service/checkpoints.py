"""Checkpoints as models: each that is kept answers under `<the policy's id>:ckpt-step-N`, also while its job runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.tables import Event, Job, Policy
from service.launchers.base import attempt_name
from trainers import manifest
from trainers.manifest import NAME as MANIFEST
from trainers.manifest import Manifest
from trainers.protocol import SPEC
from trainers.spec import Assignment

ID = re.compile(
    r"(?P<policy>ft:(?P<base>[^:]+):[a-z0-9-]+:(?P<suffix>[^:]*):(?P<job>[0-9a-f]{1,40})):ckpt-step-(?P<step>\d{1,9})"
)


def is_one(model: Policy) -> bool:
    """Whether this is a checkpoint, which no table holds."""
    return ID.fullmatch(model.id) is not None


def model_id(job: Job, organization: str, step: int) -> str:
    """The public id of a job's checkpoint."""
    return f"{policy_id(job, organization)}:ckpt-step-{step}"


def policy_id(job: Job, organization: str) -> str:
    """`ft:<base>:<organization>:<suffix>:<job>`: one per job, known before it ends."""
    started_from = job.spec["model"]
    base = started_from.split(":")[1] if started_from.startswith("ft:") else started_from
    return f"ft:{base}:{organization}:{job.spec.get('suffix') or ''}:{job.id.removeprefix('ftjob-')}"


def find(db: Session, model: str, *, tenant: str) -> Policy | None:
    """The checkpoint as a policy that is in no table; None unless the caller's job wrote it and its files are kept.

    A policy that was deleted takes its checkpoints with it.
    """
    named = ID.fullmatch(model)
    if named is None or _is_deleted(db, named["policy"]):
        return None
    job = db.scalar(select(Job).where(Job.id == f"ftjob-{named['job']}", Job.tenant == tenant))
    if job is None or job.root is None or (job.spec.get("suffix") or "") != named["suffix"]:
        return None
    return _policy(db, job, model, named["base"], int(named["step"]))


def _is_deleted(db: Session, policy: str) -> bool:
    return db.scalar(select(Policy.id).where(Policy.id == policy, Policy.deleted_at.is_not(None))) is not None


def _policy(db: Session, job: Job, model: str, base: str, step: int) -> Policy | None:
    """From the newest announcement of the step; an adapter's name in an engine says which attempt wrote it."""
    announced = select(Event).where(Event.job == job.id, Event.kind == "checkpoint").order_by(Event.number.desc())
    event = next((e for e in db.scalars(announced) if (e.data or {})["checkpoint"]["step_number"] == step), None)
    if event is None:
        return None
    folder = Path(job.root or "") / attempt_name(job.id, event.attempt)
    try:
        made = _made(folder, (event.data or {})["checkpoint"]["path"])
    except FileNotFoundError:
        return None  # not kept, or merged weights whose job has not ended
    own = {"id": model, "tenant": job.tenant, "job": job.id, "base": base, "created_at": event.created_at}
    return Policy(**own, **made, adapter=f"{folder.name}-step-{step}")


def _made(folder: Path, place: str) -> dict[str, Any]:
    """What of a policy its attempt's folder says. Raises FileNotFoundError where it is not (yet) to be served."""
    assignment = Assignment.model_validate_json((folder / SPEC).read_text())
    kind = assignment.spec.served_as
    weights = folder / place / kind
    if kind == "merged":
        files = Manifest.model_validate_json((folder / MANIFEST).read_text()).files
        (weights / "config.json").stat()
        return {"kind": kind, "path": str(weights), "digest": manifest.folder_digest(files, f"{place}/{kind}")}
    rank = int(json.loads((weights / "adapter_config.json").read_text())["r"])
    return {"kind": kind, "path": str(weights), "rank": rank, "merged": assignment.merged_model}
