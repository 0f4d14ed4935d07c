"""SparsePO: token masks on reward and KL (Christopoulou et al. 2025, 2410.05102; parent: TDPO, 2404.11999)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from trainers.objectives.base import Completions, Family, Loss, Needs, Objective, likelihood_metrics, reward_metrics

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
    mapo_families: tuple[Family, ...] = Field(
        ("mlp", "attention", "residual", "logits"), min_length=1, description="Activations that `mapo` reads."
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
        """The KL at each token, with one mask in its sum with the log-ratio alone; what the masks are made of."""
        return Needs(
            kl="reference_to_policy",
            advantage=self.mask != "learned_independent" and self.tdpo == 1,
            ref_states=self.mask in ("learned_common", "learned_independent"),
            activations=self.mapo_families if self.mask == "mapo" else (),
        )

    def modules(self, layers: int, width: int) -> nn.Module | None:
        """The mask network(s), where learned."""
        from trainers.masks import Masks

        if self.mask in ("ones", "mapo"):
            return None
        return Masks(layers, width, shared=self.mask == "learned_common", init=self.mask_init)

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:
        """The masked preference loss, one value per pair; logged rewards are β (U + D), the loss's own sign."""
        from torch.nn.functional import logsigmoid

        m_u, m_d = self._masks(batch, modules)
        if m_d is m_u and self.tdpo == 1:
            weighted = m_u * batch.shared_advantage()
        else:
            weighted = m_u * batch.log_ratio() + m_d * self._kl(batch)
        rewards = self.beta * batch.total(weighted)
        chosen, rejected = rewards.chunk(2)
        metrics = reward_metrics(rewards) | _mask_metrics(m_u, m_d)
        if batch.advantage is None:
            metrics |= likelihood_metrics(batch, self.beta)
        return Loss(-logsigmoid(chosen - rejected) + self._l1(batch, m_u, m_d), metrics)

    def diagnostics(self, batch: Completions) -> dict[str, Tensor]:
        """What the sum of log-ratio and KL does not tell."""
        return likelihood_metrics(batch, self.beta)

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
            assert batch.activation is not None, "MaPO declares that it needs the activations"  # noqa: S101
            return batch.activation, batch.activation
        if modules is None:
            ones = batch.logp.new_ones(batch.segment.shape)
            return ones, ones
        masks: tuple[Tensor, Tensor] = modules(batch.ref_states)
        return masks

    def _kl(self, batch: Completions) -> Tensor:
        """K_t as the loss counts it: all of it, or for TDPO2 α K_t, on the chosen answers without a gradient."""
        assert batch.kl is not None, "SparsePO declares that it needs the KL"  # noqa: S101
        if self.tdpo == 1:
            return batch.kl
        return self.alpha * batch.kl.where(batch.segment >= batch.count // 2, batch.kl.detach())

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
