"""What of the policy trains: an adapter of one of several kinds, or every weight. Torch-free.

The fields are peft's own, by name and meaning; the worker hands them to the library as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from reward.spec import Frozen

Targets = list[str] | Literal["all-linear"]


class Full(Frozen):
    """Full fine-tuning: every weight trains, nothing is added."""

    type: Literal["full"] = "full"
    #: times the method's base learning rate
    rate: ClassVar[float] = 0.1


class Peft(Frozen):
    """Something small that trains beside frozen weights."""

    rate: ClassVar[float] = 1.0
    target_modules: Targets = Field("all-linear", description="Names of the linear layers that are adapted.")


class Lora(Peft):
    """A low-rank adapter (2106.09685): ΔW = lora_alpha / r · B A."""

    type: Literal["lora"] = "lora"
    r: int = Field(16, ge=1, le=1024, description="Rank.")
    lora_alpha: int = Field(32, ge=1, le=1024, description="The update is scaled by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_rslora: bool = Field(False, description="Scale by lora_alpha / √r instead (2312.03732).")
    use_dora: bool = Field(False, description="Train each column's length apart from its direction (2402.09353).")


class Ia3(Peft):
    """A factor for each key, value and hidden unit (2205.05638)."""

    type: Literal["ia3"] = "ia3"
    rate: ClassVar[float] = 30.0
    target_modules: list[str] = Field(["k_proj", "v_proj", "down_proj"], description="Layers that are scaled.")
    feedforward_modules: list[str] = Field(["down_proj"], description="Those whose input is scaled, not the output.")

    @model_validator(mode="after")
    def _feedforward_is_targeted(self) -> Self:
        strange = sorted(set(self.feedforward_modules) - set(self.target_modules))
        if strange:
            raise ValueError(f"feedforward_modules names {', '.join(strange)}, which target_modules does not")
        return self


class Oft(Peft):
    """A rotation of each layer's input, in blocks (2306.07280)."""

    type: Literal["oft"] = "oft"
    oft_block_size: int = Field(32, ge=2, le=1024, description="Width of a block; it must divide the layers' inputs.")
    module_dropout: float = Field(0.0, ge=0, lt=1)


class Vera(Peft):
    """Vectors that scale one random low-rank map shared by all layers (2310.11454)."""

    type: Literal["vera"] = "vera"
    rate: ClassVar[float] = 10.0
    r: int = Field(256, ge=1, le=4096, description="Rank of the shared map.")
    vera_dropout: float = Field(0.0, ge=0, lt=1)
    d_initial: float = Field(0.1, gt=0, le=10, description="What the inner vectors start at.")
    projection_prng_key: int = Field(0, ge=0, le=2147483647, description="Seed of the shared map.")


def _lora_unless_said(given: Any) -> Any:
    return {"type": "lora"} | given if isinstance(given, dict) else given


#: `{"type": …, …}`; without a type a LoRA is meant
AnyPeft = Annotated[Lora | Full | Ia3 | Oft | Vera, Field(discriminator="type"), BeforeValidator(_lora_unless_said)]


def plain_lora(kind: Full | Peft) -> bool:
    """Whether the result is a product of two matrices for each layer, which engines load beside the base model."""
    return isinstance(kind, Lora) and not kind.use_dora
