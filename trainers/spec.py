"""The spec: what the caller asked for, frozen, defaults resolved; and what one attempt at it is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from reward.frozen import Frozen
from trainers.objectives import AnyObjective, Objective
from trainers.peft_kinds import AnyPeft, Lora, plain_lora

AnObjective = TypeVar("AnObjective", bound=Objective)


class Asked(Frozen):
    """Something a client sends: null means the same as leaving it out."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class Block(Asked, Generic[AnObjective]):
    """The OpenAI dialect's wrapper around a method's hyperparameters."""

    hyperparameters: AnObjective


class Method(Asked):
    """`{"type": T, T: {"hyperparameters": {...}}}`: the shape on the wire, in the database and in the spec."""

    type: str

    @property
    def objective(self) -> Objective:
        """The hyperparameters with their loss."""
        block: Block[Objective] = getattr(self, self.type)
        return block.hyperparameters


def _method(objective: type[Objective]) -> type[Method]:
    wrapper = Block[objective]  # type: ignore[valid-type]
    settings = (objective, Field(default_factory=objective))
    block = create_model(f"{objective.__name__}Block", __base__=wrapper, __module__=__name__, hyperparameters=settings)
    fields: dict[str, Any] = {
        "type": (Literal[objective.type], objective.type),
        objective.type: (block, Field(default_factory=block)),
    }
    name = f"{objective.__name__}Method"
    return create_model(name, __base__=Method, __module__=__name__, __doc__=objective.__doc__, **fields)


METHODS = {objective.type: _method(objective) for objective in get_args(AnyObjective)}
if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[Union[tuple(METHODS.values())], Field(discriminator="type")]  # noqa: UP007


class Resources(Frozen):
    """What an attempt occupies while it runs."""

    slots: int = Field(1, ge=1, le=1024, description="GPUs; on CPU, pairs of one-threaded processes.")
    priority: int = Field(0, ge=-100, le=100, description="Jobs of higher priority start first.")


#: how a finished policy is served
Serving = Literal["adapter", "merged"]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class JobSpec(Asked):
    """A training job as its owner asked for it: public ids only, never a path."""

    model: str = Field(min_length=1, max_length=256, description="A base model or a finished policy.")
    training_file: str = Field(min_length=1, max_length=128)
    validation_file: str | None = Field(None, min_length=1, max_length=128)
    method: AnyMethod
    suffix: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(0, ge=0, le=2147483647)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    peft: AnyPeft = Lora()
    serving: Serving | None = Field(
        None, description="`adapter` on the base model's engine, or `merged` weights with an engine of their own."
    )
    resources: Resources = Resources()
    integrations: list[str] = Field([], max_length=0, description="None is offered yet.")

    @field_validator("serving")
    @classmethod
    def _engines_load_it(cls, serving: Serving | None, given: ValidationInfo) -> Serving | None:
        if serving == "adapter" and "peft" in given.data and not plain_lora(given.data["peft"]):
            raise ValueError("engines load plain LoRA adapters only; this job can only be served merged")
        return serving

    @property
    def served_as(self) -> Serving:
        """What was asked or settled at submit; else an adapter where the kind is one that engines load."""
        return self.serving or ("adapter" if plain_lora(self.peft) else "merged")

    def learning_rate(self) -> float:
        """The peak learning rate: as asked, else the method's for a LoRA times the factor of what trains."""
        objective = self.method.objective
        return objective.resolved_learning_rate() * (1.0 if objective.learning_rate else self.peft.rate)


class Assignment(Frozen):
    """One attempt's `spec.json`: the spec, with its ids turned into places. It holds no credential."""

    job: str
    attempt: int = Field(ge=1)
    spec: JobSpec
    base_model: str = Field(description="Public name of the base model.")
    model_path: Path = Field(description="The base model's folder, or that of merged weights the job goes on from.")
    model_digest: str
    merged_model: str | None = Field(None, description="Public id of the policy whose merged weights those are.")
    adapter_path: Path | None = Field(None, description="The adapter of the policy that the job goes on from.")
    training_path: Path
    validation_path: Path | None = None
    events_url: str | None = Field(None, description="Where progress is POSTed with the attempt's token.")
