"""What must be true of a job before it is queued; whatever is not is named here, not by a worker an hour later."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service import files, registry
from service.db.tables import Policy
from service.errors import Invalid
from service.serving.limits import check_lora
from service.settings import Settings
from trainers.spec import JobSpec


def check(db: Session, spec: JobSpec, *, tenant: str, settings: Settings) -> None:
    """Raises Invalid or NotFound with the field that is wrong: model, files, adapter."""
    model = registry.find(db, spec.model, tenant=tenant)
    check_lora(spec.peft.r, spec.peft.target_modules, settings.engine)
    if isinstance(model, Policy):
        _check_sum_of_ranks(model, spec, settings)
    for param, file_id in (("training_file", spec.training_file), ("validation_file", spec.validation_file)):
        if file_id is not None:
            files.check(files.get(db, file_id, tenant=tenant, param=param), settings.files, param=param)


def _check_sum_of_ranks(model: Policy, spec: JobSpec, settings: Settings) -> None:
    """Going on from a policy adds its adapter to the new one; the served adapter's rank is their sum."""
    total = model.rank + spec.peft.r
    if total > settings.max_lora_rank:
        raise Invalid(
            f"{spec.model} has rank {model.rank}; with {spec.peft.r} more its adapter would have {total}, "
            f"engines take {settings.max_lora_rank}",
            param="peft.r",
        )
