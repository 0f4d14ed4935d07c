"""What must be true of a job before it is queued: a model that can be served, files that can be read, an adapter
that engines take."""

from __future__ import annotations

from pathlib import Path

from service import files, registry
from service.db import Database
from service.db.tables import Policy
from service.errors import Invalid
from service.serving.limits import check_base, check_lora
from service.settings import Settings
from trainers.spec import JobSpec


def check(database: Database, spec: JobSpec, *, tenant: str, settings: Settings) -> None:
    """Raises Invalid or NotFound with the field that is wrong: model, files, adapter."""
    if spec.validation_file is not None:
        raise Invalid("validation_file is not evaluated yet; leave it out", param="validation_file")
    with database.snapshot() as db:
        model = registry.find(db, spec.model, tenant=tenant)
        base = registry.base_of(db, model)
        training = files.get(db, spec.training_file, tenant=tenant, param="training_file")
    check_base(registry.read_config(Path(base.path)), gpu=bool(settings.gpus))
    check_lora(spec.peft.r, spec.peft.target_modules, settings.engine)
    if isinstance(model, Policy):
        _check_sum_of_ranks(model, spec, settings)
    bounds = {"line_bytes": settings.max_line_bytes, "nesting": settings.max_nesting}
    files.check(training, settings.files, param="training_file", **bounds)


def _check_sum_of_ranks(model: Policy, spec: JobSpec, settings: Settings) -> None:
    """Going on from a policy adds its adapter to the new one; the served adapter's rank is their sum."""
    total = model.rank + spec.peft.r
    if total > settings.max_lora_rank:
        raise Invalid(
            f"{spec.model} has rank {model.rank}; with {spec.peft.r} more its adapter would have {total}, "
            f"engines take {settings.max_lora_rank}",
            param="peft.r",
        )
