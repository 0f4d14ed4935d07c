"""What must be true of a job before it is queued: a model that can be served, files that can be read, a way to serve
the result."""

from __future__ import annotations

from pathlib import Path

from service import checkpoints, files, registry
from service.db import Database
from service.db.tables import BaseModelRow, Policy
from service.errors import Invalid
from service.serving.limits import check_base, lora_hindrance
from service.settings import Settings
from trainers.peft_kinds import Full, Lora, plain_lora
from trainers.spec import JobSpec

#: what the trainer keeps frozen whatever kind of adapter trains
FROZEN = frozenset({"lm_head", "embed_tokens"})


def check(database: Database, spec: JobSpec, *, tenant: str, settings: Settings) -> JobSpec:
    """The spec with `serving` settled. Raises Invalid or NotFound with the field that is wrong."""
    _check_evaluations(spec)
    _check_targets(spec)
    with database.snapshot() as db:
        model = registry.find(db, spec.model, tenant=tenant)
        if isinstance(model, Policy) and model.kind == "merged" and checkpoints.is_one(model):
            raise Invalid(f"{model.id} has merged weights: go on from its finished policy", param="model")
        weights = registry.weights_of(db, model)
        named = {"training_file": spec.training_file, "validation_file": spec.validation_file}
        asked = {param: files.get(db, name, tenant=tenant, param=param) for param, name in named.items() if name}
    check_base(registry.read_config(Path(weights.path)), gpu=bool(settings.gpus))
    settled = _settled(spec, model, settings)
    bounds = {"line_bytes": settings.max_line_bytes, "nesting": settings.max_nesting}
    for param, file in asked.items():
        files.check(file, settings.files, objective=spec.method.objective, param=param, **bounds)
    return settled


def _check_evaluations(spec: JobSpec) -> None:
    """Some settings speak of the validation file."""
    asked = spec.method.objective.asks_for_evaluations()
    if asked and spec.validation_file is None:
        sentence = f"{asked[0]} needs a validation_file"
        raise Invalid(sentence, param=f"method.{spec.method.type}.hyperparameters.{asked[0]}")


def _check_targets(spec: JobSpec) -> None:
    if isinstance(spec.peft, Full):
        return
    targets = spec.peft.target_modules
    strange = sorted(FROZEN.intersection([] if isinstance(targets, str) else targets))
    if strange:
        sentence = f"target_modules names {', '.join(strange)}; only linear layers inside the blocks are adapted"
        raise Invalid(sentence, param="peft.target_modules")


def _settled(spec: JobSpec, model: BaseModelRow | Policy, settings: Settings) -> JobSpec:
    """What was asked for, else an adapter where an engine can take it, else merged weights."""
    hindrance = _hindrance(spec, model, settings)
    if spec.serving == "adapter" and hindrance is not None:
        why, param = hindrance
        raise Invalid(f"{why}: this job can only be served merged", param=param)
    return spec.model_copy(update={"serving": spec.serving or ("merged" if hindrance else "adapter")})


def _hindrance(spec: JobSpec, model: BaseModelRow | Policy, settings: Settings) -> tuple[str, str] | None:
    """Why the result cannot be loaded beside the weights that it starts from, and the field that says so."""
    kind = spec.peft
    if not isinstance(kind, Lora) or not plain_lora(kind):
        return "engines load plain LoRA adapters only", "serving"
    earlier = model.rank or 0 if isinstance(model, Policy) else 0
    total = earlier + kind.r
    if earlier and total > settings.max_lora_rank:
        sum_ = f"{spec.model} has rank {earlier}; with {kind.r} more its adapter would have {total}"
        return f"{sum_}, engines take {settings.max_lora_rank}", "peft.r"
    return lora_hindrance(total, kind.target_modules, settings.engine)
