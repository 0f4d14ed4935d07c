"""KTO: answers that are each good or bad, without pairs (Ethayarajh et al. 2024, 2402.01306)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from trainers.objectives.base import Completions, Data, Loss, Needs, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

#: the column that says whether the answer is desirable: 1 or 0
LABEL = "label"


class KTO(Objective):
    """Raise desirable answers and lower undesirable ones, compared with how far the policy has moved on the whole.

    With r = log π(y)/π_ref(y): w_d (1 − σ(β(r − z₀))) where desirable, w_u (1 − σ(β(z₀ − r))) where not. z₀ ≥ 0 is the
    mean of r over prompts with answers that belong to other prompts, each example's second leaf, without a gradient.
    It is taken over the forward pass, as TRL takes it. `apo_zero_unpaired` has no z₀: 1 − σ(βr) and σ(βr).
    """

    type: ClassVar[str] = "kto"
    data: ClassVar[Data] = "binary"
    answers: ClassVar[tuple[str, ...]] = ("answer", "mismatched")

    beta: float = Field(0.1, gt=0, le=100, description="Pull towards the reference policy.")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field("kto", description="By TRL's names.")
    desirable_weight: float = Field(1.0, ge=0, le=1000, description="w_d, for data with few desirable answers.")
    undesirable_weight: float = Field(1.0, ge=0, le=1000, description="w_u, for data with few undesirable ones.")

    def needs(self) -> Needs:
        """The reference, and each answer's label."""
        return Needs(columns=frozenset({LABEL}))

    def batch_coupled(self) -> bool:
        """z₀ is a mean over the forward pass."""
        return self.loss_type == "kto"

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:  # noqa: ARG002
        """One value per example; rewards β r are logged apart for desirable (chosen) and undesirable (rejected)."""
        ratio, mismatched = batch.total(batch.log_ratio()).chunk(2)
        label = batch.columns[LABEL]
        z0 = mismatched.detach().mean().clamp(min=0) if self.loss_type == "kto" else ratio.new_zeros(())
        gain = self.beta * (ratio - z0) * (2 * label - 1)
        weight = self.desirable_weight * label + self.undesirable_weight * (1 - label)
        return Loss(weight * (-gain).sigmoid(), self._metrics(batch, ratio, z0))

    def _metrics(self, batch: Completions, ratio: Tensor, z0: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        good, reward = batch.columns[LABEL], self.beta * ratio.detach()
        logp = batch.total(batch.logp.detach()).chunk(2)[0]
        sides = {"chosen": good, "rejected": 1 - good}
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {"kto/z0": z0.expand(len(good))}
        metrics |= {f"rewards/{side}": (reward * mine, mine) for side, mine in sides.items()}
        metrics |= {f"logps/{side}": (logp * mine, mine) for side, mine in sides.items()}
        return metrics | {f"drift/{side}": (ratio.detach() * mine, mine) for side, mine in sides.items()}
