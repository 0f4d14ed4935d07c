"""What every objective shares: the settings of a run, the vectors it reads and the loss it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from reward.frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor, nn


#: KL(π_ref ‖ π) or KL(π ‖ π_ref)
Kl = Literal["none", "reference_to_policy", "policy_to_reference"]
Data = Literal["preference", "supervised", "binary"]
#: kinds of activations that MaPO reads
Family = Literal["mlp", "attention", "residual", "logits"]
#: log-odds of the raters' agreement where the file says nothing of it: all but one in a thousand
UNANIMOUS = log(999)


@dataclass(frozen=True)
class Completions:
    """The scored tokens of one micro-batch laid end to end: no prompt, no padding.

    N tokens, P examples, S completions, L blocks of the reference, d its width. Completions 0..P-1 are the examples'
    first answers (of pairs, the chosen ones), P..2P-1 their second ones.
    """

    logp: Tensor  #: (N,) float32, log π(y_t | x, y_<t) of the policy, in nats; (0,) where `advantage` is all there is
    ref_logp: Tensor | None  #: (N,) float32, the same of the reference; no gradient
    segment: Tensor  #: (N,) int64, the completion that each token belongs to
    count: int  #: S
    kl: Tensor | None = None  #: (N,) K_t over the whole vocabulary, in the direction that `Needs.kl` asks for, in nats
    ref_states: Tensor | None = None  #: (L, N, d) the reference's states that predict each token
    weights: Tensor | None = None  #: (N,) the file's own token weights; without them each counts 1
    correct: Tensor | None = None  #: (N,) 1 where y_t is the likeliest token, on steps that are logged
    columns: Mapping[str, Tensor] = field(default_factory=dict)  #: (P,) each: what the file says of the examples
    advantage: Tensor | None = None  #: (N,) ρ_t + K_t, where it was had without either
    activation: Tensor | None = None  #: (N,) MaPO's mask
    reverse_kl: Tensor | None = None  #: (N,) KL(π ‖ π_ref), in nats, without a gradient, where all is asked for

    def log_ratio(self) -> Tensor:
        """ρ_t = log π(y_t) − log π_ref(y_t), shape (N,)."""
        assert self.ref_logp is not None, "the objective declares that it needs the reference"  # noqa: S101
        return self.logp - self.ref_logp

    def shared_advantage(self) -> Tensor:
        """ρ_t + K_t, which needs no log-partition of the policy, shape (N,)."""
        if self.advantage is not None:
            return self.advantage
        assert self.kl is not None, "the objective declares that it needs the KL"  # noqa: S101
        return self.log_ratio() + self.kl

    def total(self, per_token: Tensor) -> Tensor:
        """Sum a vector over the tokens of each completion, each times its weight: (N,) → (S,)."""
        weighted = per_token if self.weights is None else per_token * self.weights
        return weighted.new_zeros(self.count).index_add(0, self.segment, weighted)


@dataclass(frozen=True)
class Loss:
    """Entries per unit; the trainer alone weighs and divides: each sum by its units' weight in the global batch."""

    per_example: Tensor  #: (P,); zeros where no term counts examples
    #: each a vector, or sums and counts; what is logged is the mean over all entries of all ranks since the last log
    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    per_token: Tensor | None = None  #: one entry for each scored token of the first answers


@dataclass(frozen=True)
class Needs:
    """What the trainer must compute beyond log-probabilities; what nobody needs is not computed."""

    reference: bool = True  #: `Completions.ref_logp`
    kl: Kl = "none"  #: `Completions.kl`, with gradient, in this direction
    advantage: bool = False  #: ρ_t and K_t in their sum alone: `Completions.shared_advantage`
    ref_states: bool = False  #: `Completions.ref_states`
    activations: tuple[Family, ...] = ()  #: `Completions.activation`, of these families
    accuracy: bool = False  #: `Completions.correct`
    columns: frozenset[str] = frozenset()  #: what each line of the file must say, beyond prompt and answers


class Objective(Frozen, ABC):
    """A training objective: its fields are the hyperparameters, its `loss` is the mathematics.

    Every hyperparameter also takes `"auto"`, which means its default.
    """

    #: the job's `method.type`
    type: ClassVar[str]
    #: what a line of the training file is: a pair, a conversation to imitate, or an answer with a label
    data: ClassVar[Data] = "preference"
    #: what the answers of an example are called
    answers: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    #: learning rate at `learning_rate_multiplier` 1 when a LoRA is trained
    base_learning_rate: ClassVar[float] = 1e-4

    n_epochs: int = Field(1, ge=1, le=50, description="Passes over the training file.")
    batch_size: int = Field(16, ge=1, le=256, description="Examples per optimiser step, over all ranks.")
    micro_batch_size: int = Field(4, ge=1, le=256, description="Examples per forward pass of one rank.")
    micro_batch_tokens: int = Field(
        4096, ge=2, le=1_048_576, description="Tokens per forward pass of one rank; a longer example is one of its own."
    )
    head_memory_mb: float = Field(
        256, gt=0, le=1_048_576, description="MiB of logits a rank keeps for the backward pass; others are recomputed."
    )
    reference_store_gb: float = Field(
        20, ge=0, le=1_000_000, description="GB of disk for the reference's states; beyond, it runs at every step."
    )
    learning_rate_multiplier: float = Field(
        1.0, gt=0, le=1000, description="Times the base learning rate of what trains: 1e-4 for a LoRA."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Absolute learning rate, instead of the multiplier."
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field("linear", description="Decay after warm-up.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps spent warming up.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's, on the policy's weights.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    max_length: int = Field(1024, ge=2, le=1_048_576, description="Longest prompt plus answer, in tokens.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto` is bf16 on an accelerator that has it, fp32 elsewhere."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage.")
    logging_steps: int = Field(1, ge=1, description="Steps between two metrics events.")
    checkpoints: int = Field(2, ge=1, le=50, description="Checkpoints in a run, evenly spaced; the last is the end.")
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between two evaluations of validation_file; `auto`: at checkpoints only."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=1000, description="Evaluations without a lower validation loss after which the training ends."
    )
    early_stopping_min_delta: float = Field(
        0.0, ge=0, description="Nats by which the validation loss must fall to count as lower."
    )
    keep: Literal["last", "best"] = Field(
        "last", description="What is published: the end, or the checkpoint with the lowest validation loss."
    )

    @model_validator(mode="before")
    @classmethod
    def _auto_means_the_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v not in ("auto", None)} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_way_to_say_the_learning_rate(self) -> Objective:
        if self.learning_rate is not None and self.learning_rate_multiplier != 1:
            raise ValueError("give learning_rate or learning_rate_multiplier, not both")
        return self

    @model_validator(mode="after")
    def _a_delta_is_measured_with_patience(self) -> Objective:
        if self.early_stopping_min_delta and self.early_stopping_patience is None:
            raise ValueError("early_stopping_min_delta goes with early_stopping_patience")
        return self

    def asks_for_evaluations(self) -> list[str]:
        """The settings that mean nothing without a validation file."""
        asked = {
            "eval_steps": self.eval_steps is not None,
            "early_stopping_patience": self.early_stopping_patience is not None,
            "keep": self.keep == "best",
        }
        return [name for name, given in asked.items() if given]

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        for field_schema in schema.get("properties", {}).values():
            kept = {k: field_schema.pop(k) for k in ("title", "description", "default") if k in field_schema}
            rule = dict(field_schema)
            field_schema.clear()
            field_schema.update(kept | {"anyOf": [rule, {"const": "auto", "type": "string"}]})
        return schema

    def resolved_learning_rate(self) -> float:
        """The peak learning rate that the optimiser gets."""
        return self.learning_rate or self.base_learning_rate * self.learning_rate_multiplier

    def needs(self) -> Needs:
        """What `loss` reads beyond log-probabilities."""
        return Needs()

    def batch_coupled(self) -> bool:
        """Whether the loss of an example depends on which others share its micro-batch."""
        return False

    def modules(self, layers: int, width: int) -> nn.Module | None:  # noqa: ARG002 - for those that have none
        """Trainable state of the objective itself for a model of so many blocks of that width."""
        return None

    def modules_weight_decay(self) -> float:
        """AdamW's, on the weights (not the biases and norms) of `modules`."""
        return 0.0

    def token_weights(self, batch: Completions, modules: nn.Module | None = None) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The weights, (N,) each, that the loss gives to single tokens: none where all count alike."""
        return {}

    def diagnostics(self, batch: Completions) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:  # noqa: ARG002
        """What is logged of a few sampled examples, with everything known of their tokens and no gradient."""
        return {}

    @abstractmethod
    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:
        """The objective on one micro-batch."""


def reward_metrics(rewards: Tensor) -> dict[str, Tensor]:
    """The curves users know from TRL, from each completion's reward (S,): chosen first, rejected second."""
    chosen, rejected = rewards.detach().chunk(2)
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).float(),
    }


def likelihood_metrics(batch: Completions, beta: float) -> dict[str, Tensor]:
    """How likely the answers are, how far that has moved and how they rank; where it is known, their KL."""
    logps, drifts = batch.total(batch.logp.detach()), batch.total(batch.log_ratio().detach())
    metrics = dict(zip(("logps/chosen", "logps/rejected"), logps.chunk(2), strict=True))
    for name, divergence in (("kl", batch.kl), ("reverse_kl", batch.reverse_kl)):
        if divergence is not None:
            metrics[f"{name}/chosen"], metrics[f"{name}/rejected"] = batch.total(divergence.detach()).chunk(2)
    return metrics | ranking_metrics(logps, drifts, beta)


def ranking_metrics(logps: Tensor, drifts: Tensor, beta: float) -> dict[str, Tensor]:
    """How far the policy has gone with its preferences, from (S,) log π(y) and log π(y)/π_ref(y), in nats.

    2405.19534: with c = log π_ref(y_l)/π_ref(y_w), a pair has difficulty β c, and at the optimum of DPO, with all but
    a share of 10⁻³ of the raters agreeing, y_w ranks first where logit(1 − 10⁻³)/β > c. 2406.07327: drifts.
    """
    (w, l), (drift_w, drift_l) = logps.chunk(2), drifts.chunk(2)  # noqa: E741 - as in the papers
    c = (l - drift_l) - (w - drift_w)
    ranked, ideally = (w >= l).float(), (UNANIMOUS / beta > c).float()
    return {
        "ranking/accuracy": ranked,
        "ranking/idealised_accuracy": ideally,
        "ranking/alignment_gap": ideally - ranked,
        "ranking/difficulty": beta * c,
        "drift/chosen": drift_w,
        "drift/rejected": drift_l,
        "drift/chosen_fell": (drift_w < 0).float(),
        "drift/saturation": (beta * (drift_l - drift_w)).sigmoid(),
    }
