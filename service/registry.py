"""Models: the base models an operator allows, and the policies that jobs made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import checkpoints
from service.db.tables import BaseModelRow, Job, Policy, now
from service.errors import Invalid, NotFound
from service.launchers.base import attempt_name
from service.serving.engines import Servable
from trainers import manifest
from trainers.manifest import Manifest
from trainers.spec import JobSpec

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,63}$")
#: what a model folder may hold; anything that can carry code is refused
WEIGHTS = ".safetensors"
UNSAFE = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so"})


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json, after the folder was found to hold data only.

    Raises Invalid with a sentence for pickles, code, a config that names code, or missing weights.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise Invalid(f"{folder} is not a model folder: config.json cannot be read ({error})") from error
    names = sorted(path.name for path in folder.iterdir())
    unsafe = [name for name in names if Path(name).suffix in UNSAFE]
    if unsafe:
        raise Invalid(f"{folder} holds files that can carry code: {', '.join(unsafe)}; only safetensors are taken")
    for name in ("config.json", "tokenizer_config.json"):
        if name in names and "auto_map" in json.loads((folder / name).read_text()):
            raise Invalid(f"{folder}/{name} has an auto_map: models that bring their own code are not taken")
    if not any(name.endswith(WEIGHTS) for name in names):
        raise Invalid(f"{folder} holds no {WEIGHTS} file")
    if "tokenizer.json" not in names:
        raise Invalid(f"{folder} holds no tokenizer.json")
    return config


def has_template(folder: Path) -> bool:
    """Whether the model's tokenizer can render a conversation."""
    if (folder / "chat_template.jinja").exists():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except FileNotFoundError:
        return False


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's files."""
    return manifest.digest({path.name: manifest.sha256(path) for path in folder.iterdir() if path.is_file()})


def add_base(db: Session, name: str, folder: Path, *, source: str) -> BaseModelRow:
    """Allow a base model under a name; the same folder again is no change, other content under the name is refused."""
    if not NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a model name: letters, digits and . _ - / only, 64 at most", param="name")
    row = BaseModelRow(name=name, path=str(folder), source=source, digest=digest(folder))
    known = db.get(BaseModelRow, name)
    if known is None:
        db.add(row)
        db.flush()
        return row
    if known.digest != row.digest:
        raise Invalid(f"{name} is already another model ({known.source}); choose another name", param="name")
    known.path, known.source = row.path, row.source
    return known


def bases(db: Session) -> list[BaseModelRow]:
    """The base models, by name."""
    return list(db.scalars(select(BaseModelRow).order_by(BaseModelRow.name)))


def policies(db: Session, *, tenant: str) -> list[Policy]:
    """The caller's policies, oldest first."""
    mine = select(Policy).where(Policy.tenant == tenant, Policy.deleted_at.is_(None))
    return list(db.scalars(mine.order_by(Policy.created_at, Policy.id)))


def find(db: Session, model: str, *, tenant: str, param: str = "model") -> BaseModelRow | Policy:
    """A base model, or a policy or a kept checkpoint of the caller's; NotFound otherwise."""
    mine = select(Policy).where(Policy.id == model, Policy.tenant == tenant, Policy.deleted_at.is_(None))
    found = db.get(BaseModelRow, model) or db.scalar(mine) or checkpoints.find(db, model, tenant=tenant)
    if found is None:
        raise NotFound(f"there is no model {model!r}", param=param, code="model_not_found")
    return found


def base_of(db: Session, model: BaseModelRow | Policy) -> BaseModelRow:
    """The base model of a policy; a base model's is itself."""
    return model if isinstance(model, BaseModelRow) else db.get_one(BaseModelRow, model.base)


def weights_of(db: Session, model: BaseModelRow | Policy) -> BaseModelRow | Policy:
    """Whose weights a model is, or goes on as an adapter: a base model's, or those of a policy that is merged."""
    if isinstance(model, BaseModelRow) or model.kind == "merged":
        return model
    return base_of(db, model) if model.merged is None else db.get_one(Policy, model.merged)


def servable(db: Session, model: BaseModelRow | Policy) -> Servable:
    """What an engine needs to know to serve a model: merged weights have an engine of their own."""
    weights = weights_of(db, model)
    name, path = weights.name if isinstance(weights, BaseModelRow) else weights.id, Path(weights.path)
    if isinstance(model, Policy) and model is not weights:
        return Servable(model.id, name, path, model.adapter, Path(model.path))
    return Servable(name, name, path)


def policy_id(job: Job, spec: JobSpec, base: str, organization: str) -> str:
    """`ft:<base>:<organization>:<suffix>:<job>`: one per job."""
    return f"ft:{base}:{organization}:{spec.suffix or ''}:{job.id.removeprefix('ftjob-')}"


def register(db: Session, job: Job, made: Manifest, folder: Path, policy: str) -> Policy:
    """Make a finished job's adapter or merged weights servable."""
    row = Policy(
        id=policy,
        tenant=job.tenant,
        job=job.id,
        base=made.base_model,
        kind=made.kind,
        adapter=attempt_name(job.id, job.attempt),
        path=str(folder / made.kind),
        rank=made.rank,
        digest=manifest.folder_digest(made.files, made.kind) if made.kind == "merged" else None,
        merged=made.merged_model,
    )
    db.add(row)
    db.flush()
    return row


def delete(db: Session, policy: Policy) -> None:
    """Stop offering a policy; its artifacts stay."""
    db.execute(update(Policy).where(Policy.id == policy.id).values(deleted_at=now()))
