"""What answers look like: OpenAI's objects, with every key its clients require."""

from __future__ import annotations

from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from service import checkpoints, jobs
from service.db.tables import Annotation, BaseModelRow, Event, File, Job, Policy, RewardModel
from service.events import PREFIX
from service.states import Status
from trainers.spec import Serving

Item = TypeVar("Item", bound=BaseModel)


class View(BaseModel):
    """An answer; made from rows, never changed."""

    model_config = ConfigDict(frozen=True)


class ListOf(View, Generic[Item]):
    """A page of a list; `last_id` goes back as `after`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[Item], *, has_more: bool) -> Self:
        """The page with its cursors."""
        ends: list[Any] = [data[0], data[-1]] if data else []
        first, last = (item.id for item in ends) if ends else (None, None)
        return cls(data=data, first_id=first, last_id=last, has_more=has_more)


class Deleted(View):
    """What a deletion answers."""

    id: str
    object: str
    deleted: Literal[True] = True


class FileObject(View):
    """An upload."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    expires_at: int | None

    @classmethod
    def of(cls, row: File) -> Self:
        """From the row."""
        own = ("id", "bytes", "created_at", "filename", "purpose", "expires_at")
        return cls(**{name: getattr(row, name) for name in own})


class ModelObject(View):
    """Something servable; `parent` is a policy's base model, `job` the job that made it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = None
    job: str | None = None

    @classmethod
    def of(cls, row: BaseModelRow | Policy) -> Self:
        """From the row."""
        if isinstance(row, BaseModelRow):
            return cls(id=row.name, created=row.created_at, owned_by="operator")
        return cls(id=row.id, created=row.created_at, owned_by=row.tenant, parent=row.base, job=row.job)


class RewardModelObject(View):
    """A stored reward; `reward` holds its settings, every name in them resolved."""

    id: str
    object: Literal["reward_model"] = "reward_model"
    name: str
    version: int
    created_at: int
    reward: dict[str, Any]

    @classmethod
    def of(cls, row: RewardModel) -> Self:
        """From the row."""
        return cls(id=row.id, name=row.name, version=row.version, created_at=row.created_at, reward=row.spec)


class AnnotationObject(View):
    """An annotation; `counts` says what became of the prompts that are done."""

    id: str
    object: Literal["annotation"] = "annotation"
    created_at: int
    finished_at: int | None
    status: Status
    status_reason: str | None
    prompts: int
    done: int
    counts: dict[str, int]
    result_file: str | None
    error: dict[str, Any] | None
    spec: dict[str, Any]

    @classmethod
    def of(cls, row: Annotation) -> Self:
        """From the row."""
        same = ("id", "created_at", "finished_at", "status", "prompts", "done", "counts", "error", "spec")
        values = {name: getattr(row, name) for name in same}
        return cls(**values, status_reason=row.reason, result_file=row.file)


class JobEvent(View):
    """Something that happened in a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]

    @classmethod
    def of(cls, row: Event) -> Self:
        """From the row."""
        return cls(
            id=f"{PREFIX}{row.number}",
            created_at=row.created_at,
            level=row.level,
            message=row.message,
            type="metrics" if row.kind == "metrics" else "message",
            data=row.data or {},
        )


class Checkpoint(View):
    """A saved step of a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]

    @classmethod
    def of(cls, row: Event, job: Job, organization: str) -> Self:
        """From the event that announced it."""
        checkpoint = (row.data or {})["checkpoint"]
        step, metrics = checkpoint["step_number"], checkpoint["metrics"]
        if "valid_loss" in metrics:  # of the whole file: OpenAI's other figure is over a sample of it
            metrics = metrics | {"full_valid_loss": metrics["valid_loss"]}
        return cls(
            id=f"ftckpt_{row.number}",
            created_at=row.created_at,
            fine_tuned_model_checkpoint=checkpoints.model_id(job, organization, step),
            fine_tuning_job_id=job.id,
            step_number=step,
            metrics={"step": step, **metrics},
        )


class FineTuningJob(View):
    """A job; `status_reason`, `peft`, `serving`, `resources` and `attempt` are ours beside OpenAI's keys."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: dict[str, Any] | None
    seed: int
    estimated_finish: int | None
    method: dict[str, Any]
    metadata: dict[str, str] | None
    suffix: str | None
    peft: dict[str, Any]
    serving: Serving
    resources: dict[str, Any]
    attempt: int
    status_reason: str | None

    @classmethod
    def of(cls, job: Job, organization: str) -> Self:
        """From the row; hyperparameters are the resolved ones."""
        spec = jobs.spec_of(job)
        asked = spec.model_dump(mode="json")
        own = ("model", "training_file", "validation_file", "seed", "method", "metadata", "suffix", "peft", "resources")
        names = ("n_epochs", "batch_size", "learning_rate_multiplier")
        return cls(
            **{name: asked[name] for name in own},
            id=job.id,
            serving=spec.served_as,
            created_at=job.created_at,
            finished_at=job.finished_at,
            fine_tuned_model=job.model,
            organization_id=organization,
            status=job.status,
            hyperparameters={name: getattr(spec.method.objective, name) for name in names},
            result_files=[job.result_file] if job.result_file else [],
            trained_tokens=job.trained_tokens,
            error=job.error,
            estimated_finish=job.estimated_finish,
            attempt=job.attempt,
            status_reason=_reason(job),
        )


def _reason(job: Job) -> str | None:
    if job.status is Status.RUNNING and job.cancel_requested:
        return "cancellation requested"
    if job.status is Status.RUNNING and job.pause_requested:
        return "pause requested"
    if job.status is Status.QUEUED and job.reason is None:
        return "waits for the scheduler's next look"
    return job.reason
