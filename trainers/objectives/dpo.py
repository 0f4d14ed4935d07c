"""Direct preference optimization (Rafailov et al. 2023, 2305.18290, eq. 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from trainers.objectives.base import Completions, Loss, Objective, preference_metrics

if TYPE_CHECKING:
    from torch import nn


class DPO(Objective):
    """Prefer the chosen answer by a margin of log-ratios: no reward model, no sampling."""

    type: ClassVar[str] = "dpo"

    beta: float = Field(0.1, gt=0, le=2, description="Pull towards the reference policy.")

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:  # noqa: ARG002
        """−log σ(β (D(y_w) − D(y_l))), D(y) = Σ_t ρ_t; one value per pair."""
        from torch.nn.functional import logsigmoid

        rewards = self.beta * batch.total(batch.log_ratio())
        chosen, rejected = rewards.chunk(2)
        return Loss(-logsigmoid(chosen - rejected), preference_metrics(batch, rewards))
