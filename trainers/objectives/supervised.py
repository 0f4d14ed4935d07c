"""Imitation token by token: SFT with an optional KL anchor, and what `dft` and `asft` share with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from trainers.objectives.base import Completions, Data, Loss, Needs, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

KlDirection = Literal["reference_to_policy", "policy_to_reference"]


class TokenObjective(Objective):
    """A mean over the scored tokens of l_t = w_t · (−log p_t) + λ K_t, with p_t = π(y_t | x, y_<t)."""

    data: ClassVar[Data] = "supervised"
    answers: ClassVar[tuple[str, ...]] = ("answer",)
    #: w_t: 1, or sg(p_t)
    reweighted: ClassVar[bool]

    def anchor(self) -> tuple[float, KlDirection]:
        """λ and which KL it weighs."""
        return 0.0, "reference_to_policy"

    def needs(self) -> Needs:
        """The reference only where the KL has a weight."""
        weight, direction = self.anchor()
        return Needs(reference=weight > 0, kl=direction if weight > 0 else "none", accuracy=True)

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:  # noqa: ARG002
        """l_t of each token; cross-entropy, mean p_t and KL are logged apart, for the loss can fall while CE rises."""
        surprise, per_token = -batch.logp, -batch.logp
        p = batch.logp.detach().exp()
        if self.reweighted:
            per_token = p * surprise
        weight, _ = self.anchor()
        if weight > 0 and batch.kl is not None:
            per_token = per_token + weight * batch.kl
        metrics = {"ce": self._mean(batch, surprise), "token_probability": self._mean(batch, p)}
        if batch.kl is not None:
            metrics["kl"] = self._mean(batch, batch.kl)
        return Loss(per_token.new_zeros(batch.count), metrics, per_token)

    def diagnostics(self, batch: Completions) -> dict[str, tuple[Tensor, Tensor]]:
        """How often the file's token is the likeliest."""
        return {} if batch.correct is None else {"token_accuracy": self._mean(batch, batch.correct)}

    def _mean(self, batch: Completions, values: Tensor) -> tuple[Tensor, Tensor]:
        """Over tokens, by the file's weights."""
        weights = values.new_ones(values.shape) if batch.weights is None else batch.weights
        return values.detach() * weights, weights


class Anchored(TokenObjective):
    """One with a KL to the reference."""

    kl_weight: float = Field(0.0, ge=0, le=100, description="λ: pull of the KL towards the reference; 0 is plain SFT.")
    kl_direction: KlDirection = Field(
        "reference_to_policy",
        description="KL(π_ref ‖ π) = Σ_v π_ref log(π_ref/π), or KL(π ‖ π_ref) = Σ_v π log(π/π_ref).",
    )

    def anchor(self) -> tuple[float, KlDirection]:
        """As the settings say."""
        return self.kl_weight, self.kl_direction


class Supervised(Anchored):
    """SFT: −log p_t, averaged over the tokens that the assistant writes; with `kl_weight` λ above 0, + λ K_t."""

    type: ClassVar[str] = "supervised"
    reweighted: ClassVar[bool] = False
