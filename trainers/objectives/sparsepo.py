"""SparsePO: token masks on reward and KL (Christopoulou et al. 2025, 2410.05102; parent: TDPO, 2404.11999)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from trainers.objectives.base import Completions, Loss, Needs, Objective, preference_metrics

if TYPE_CHECKING:
    from torch import Tensor, nn


class SparsePO(Objective):
    """Learn which tokens carry the preference, from the frozen reference's hidden states.

    U(y) = Σ_t m_u ρ_t and D(y) = Σ_t m_d K_t with K_t = KL(π_ref ‖ π); per pair
    −log σ(β [(U + D)(y_w) − (U + D)(y_l)]) + λ_u ‖m_u‖₁ + λ_d ‖m_d‖₁, the norms summed over both answers.
    With masks of 1 that is TDPO1; TDPO2 has α sg(D)(y_w) and α D(y_l) in the place of D.
    """

    type: ClassVar[str] = "sparsepo"

    beta: float = Field(0.1, gt=0, le=2, description="Pull towards the reference policy.")
    mask: Literal["learned_common", "learned_independent", "mapo", "ones"] = Field(
        "learned_common",
        description="One learned mask for reward and KL, one for each, the reference's activations, or ones.",
    )
    tdpo: Literal[1, 2] = Field(1, description="With `ones`: TDPO1, or TDPO2, which leaves the chosen KL alone.")
    alpha: float = Field(0.5, ge=0, le=10, description="TDPO2's weight of the KL.")
    mask_init: Literal["one", "paper"] = Field(
        "one",
        description="`one` starts at 1 everywhere; `paper` at the release's 0.007-0.07, which may be dead.",
    )
    mask_weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's, on the mask's weights.")
    l1_reward: float = Field(0.0, ge=0, description="λ_u: price of each unit of reward mask.")
    l1_kl: float = Field(0.0, ge=0, description="λ_d: price of each unit of KL mask.")

    @model_validator(mode="after")
    def _tdpo2_has_no_masks(self) -> SparsePO:
        if self.tdpo == 2 and self.mask != "ones":
            raise ValueError("tdpo 2 goes with mask `ones`")
        if self.tdpo == 1 and self.alpha != 0.5:
            raise ValueError("alpha belongs to tdpo 2")
        return self

    def needs(self) -> Needs:
        """The KL at each token and, for a mask, every block's state of the reference."""
        return Needs(kl="reference_to_policy", ref_states=self.mask != "ones")

    def modules(self, layers: int, width: int) -> nn.Module | None:
        """The mask network(s), where learned."""
        from trainers.masks import Masks

        if self.mask in ("ones", "mapo"):
            return None
        return Masks(layers, width, shared=self.mask == "learned_common", init=self.mask_init)

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:
        """The masked preference loss, one value per pair; logged rewards are β (U + D), the loss's own sign."""
        from torch.nn.functional import logsigmoid

        assert batch.kl is not None, "SparsePO declares that it needs the KL"  # noqa: S101
        m_u, m_d = self._masks(batch, modules)
        rewards = self.beta * batch.total(m_u * batch.log_ratio() + m_d * self._kl(batch, batch.kl))
        chosen, rejected = rewards.chunk(2)
        loss = -logsigmoid(chosen - rejected) + self._l1(batch, m_u, m_d)
        return Loss(loss, preference_metrics(batch, rewards, self.beta) | _mask_metrics(m_u, m_d))

    def modules_weight_decay(self) -> float:
        """`mask_weight_decay`."""
        return self.mask_weight_decay

    def token_weights(self, batch: Completions, modules: nn.Module | None = None) -> Mapping[str, Tensor]:
        """m_u as `mask` and, where it has a network of its own, m_d as `kl_mask`; none where all are 1."""
        if self.mask == "ones":
            return {}
        m_u, m_d = self._masks(batch, modules)
        return {"mask": m_u} if m_d is m_u else {"mask": m_u, "kl_mask": m_d}

    def _masks(self, batch: Completions, modules: nn.Module | None) -> tuple[Tensor, Tensor]:
        if self.mask == "mapo":
            from trainers.masks import activation_mask

            assert batch.ref_states is not None, "MaPO declares that it needs the states"  # noqa: S101
            mask = activation_mask(batch.ref_states, batch.segment, batch.count).to(batch.logp.dtype)
            return mask, mask
        if modules is None:
            ones = batch.logp.new_ones(batch.logp.shape)
            return ones, ones
        masks: tuple[Tensor, Tensor] = modules(batch.ref_states)
        return masks

    def _kl(self, batch: Completions, kl: Tensor) -> Tensor:
        """K_t as the loss counts it: all of it, or for TDPO2 α K_t, on the chosen answers without a gradient."""
        if self.tdpo == 1:
            return kl
        return self.alpha * kl.where(batch.segment >= batch.count // 2, kl.detach())

    def _l1(self, batch: Completions, m_u: Tensor, m_d: Tensor) -> Tensor:
        """λ_u ‖m_u‖₁ + λ_d ‖m_d‖₁ per pair; a shared mask is charged their mean, once."""
        share = 0.5 if self.mask in ("learned_common", "mapo") else 1.0
        price = batch.total(share * (self.l1_reward * m_u.abs() + self.l1_kl * m_d.abs()))
        chosen, rejected = price.chunk(2)
        return chosen + rejected


def _mask_metrics(m_u: Tensor, m_d: Tensor) -> dict[str, Tensor]:
    metrics = {"mask/mean": m_u.detach(), "mask/density": (m_u > 0).float()}
    if m_d is not m_u:
        metrics |= {"mask/kl_mean": m_d.detach(), "mask/kl_density": (m_d > 0).float()}
    return metrics
