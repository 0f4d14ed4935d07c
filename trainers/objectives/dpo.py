"""The DPO family: pair losses by name over one set of sums (Rafailov et al. 2023, 2305.18290, and its descendants)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from trainers.objectives import pairwise
from trainers.objectives.base import Completions, Loss, Needs, Objective, likelihood_metrics, reward_metrics
from trainers.objectives.pairwise import PAIR_LOSSES, Answers, Divergence, LossType, Pairs, divergence_score

if TYPE_CHECKING:
    from torch import Tensor, nn


#: how much better the chosen answer is, by a reward model say: a column of the file
MARGIN = "margin"


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | int | float) else value


LossTypes = Annotated[
    tuple[LossType, ...], BeforeValidator(_several, json_schema_input_type=LossType | tuple[LossType, ...])
]
Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1000)], ...], BeforeValidator(_several)]


class DPO(Objective):
    """Prefer the chosen answer by a margin of log-ratios: no reward model, no sampling.

    The loss is Σ_k weight_k mean(loss_k): the mean over the pairs of the global batch, and for `sft` over its chosen
    tokens. `orpo` and `cpo` bring the `sft` term of their papers along.
    """

    type: ClassVar[str] = "dpo"

    beta: float = Field(0.1, gt=0, le=100, description="Pull towards the reference policy.")
    beta_rejected: float | None = Field(
        None, gt=0, le=100, description="Flex-DPO: β of the rejected answers, where it is another."
    )
    margin_scale: float = Field(
        0.0, ge=0, le=100, description="w of β(δ) = β (1 + w (1 − exp(−k δ))), δ the line's `margin`; 0 reads none."
    )
    margin_rate: float = Field(0.5, gt=0, le=100, description="k of β(δ).")
    gamma: float = Field(
        1.0, ge=0, le=10, description="DPO-γ: times the reference's log-probabilities; 0 is without a reference."
    )
    loss_type: LossTypes = Field(
        ("sigmoid",), min_length=1, description="One loss or several, by TRL's names; see docs/objectives.md."
    )
    loss_weights: Weights | None = Field(None, description="One for each loss; all 1 unless given.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="ε: share of the labels taken to be flipped.")
    length_normalized: bool = Field(
        False, description="Divide each answer's log-probabilities by its tokens before anything else."
    )
    f_divergence_type: Divergence = Field("reverse_kl", description="Of the policy from the reference (f-DPO).")
    f_alpha_divergence_coef: float = Field(0.5, ge=-10, le=10, description="α of `alpha_divergence`.")
    discopop_tau: float = Field(0.05, gt=0, le=100, description="Temperature of `discopop`'s blend.")
    simpo_gamma: float = Field(0.5, ge=0, le=100, description="Margin that `simpo` asks for.")
    cpo_alpha: float = Field(1.0, ge=0, le=1000, description="Weight of the `sft` term that `cpo` brings along.")

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> DPO:
        if len(set(self.loss_type)) < len(self.loss_type):
            raise ValueError("loss_type names a loss twice; give it a weight instead")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} losses")
        if self.label_smoothing == 0 and "exo_pair" in self.loss_type:
            raise ValueError("exo_pair needs label_smoothing above 0; its paper recommends 0.001")
        if self.label_smoothing > 0 and not pairwise.SMOOTHED.intersection(self.loss_type):
            raise ValueError(f"label_smoothing is read by none of the losses; {_among(pairwise.SMOOTHED)} do")
        self._refuse(self.f_divergence_type != "reverse_kl", "f_divergence_type", pairwise.EVERY - pairwise.OF_SCORES)
        self._refuse(self.length_normalized, "length_normalized", pairwise.NORMALISED)
        self._refuse(self.beta_rejected is not None, "beta_rejected", pairwise.ONE_BETA - {"sft"})
        self._refuse(self.margin_scale > 0, "margin_scale", pairwise.BATCH_COUPLED)
        self._refuse(self.gamma != 1, "gamma", pairwise.REFERENCE_FREE - {"sft"})
        return self

    def _refuse(self, given: bool, field: str, losses: frozenset[str]) -> None:
        clash = sorted(losses.intersection(self.loss_type))
        if given and clash:
            raise ValueError(f"{field} has no meaning for {', '.join(clash)}")

    def needs(self) -> Needs:
        """Each pair's `margin`, where β depends on it."""
        return Needs(columns=frozenset({MARGIN} if self.margin_scale else ()))

    def terms(self) -> dict[LossType, float]:
        """The losses with their weights; `sft` also where `orpo` or `cpo` brings it along."""
        weights = dict(zip(self.loss_type, self.loss_weights or (1.0,) * len(self.loss_type), strict=True))
        brought = weights.get("orpo", 0.0) + self.cpo_alpha * weights.get("cpo", 0.0)
        return weights | {"sft": weights.get("sft", 0.0) + brought} if brought else weights

    def batch_coupled(self) -> bool:
        """Whether a term sorts the pairs of a micro-batch."""
        return bool(pairwise.BATCH_COUPLED.intersection(self.loss_type))

    def loss(self, batch: Completions, modules: nn.Module | None = None) -> Loss:  # noqa: ARG002
        """Σ_k weight_k loss_k: the pairs' terms per pair, `sft` = −log π(y_t) per token of the chosen answers."""
        pairs, terms = self._pairs(batch), self.terms()
        losses: dict[LossType, Tensor] = {name: PAIR_LOSSES[name](pairs) for name in terms if name != "sft"}
        per_example = sum((terms[name] * loss for name, loss in losses.items()), pairs.chosen.logp.new_zeros(()))
        metrics = reward_metrics(_rewards(pairs)) | likelihood_metrics(batch, self.beta)
        per_token = None
        if "sft" in terms:
            surprise = -batch.logp[batch.segment < batch.count // 2]
            per_token, losses["sft"] = terms["sft"] * surprise, surprise
        if len(losses) > 1:
            metrics |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        return Loss(per_example.expand(batch.count // 2), metrics, per_token)

    def diagnostics(self, batch: Completions) -> dict[str, Tensor]:
        """The sampled pairs' KL, beside what every pair tells."""
        return likelihood_metrics(batch, self.beta)

    def _pairs(self, batch: Completions) -> Pairs:
        """Sums over tokens, or means where normalised, into scores."""
        length = batch.total(batch.logp.new_ones(batch.logp.shape))
        logp, ratio = batch.total(batch.logp), batch.total(batch.log_ratio())
        if self.length_normalized:
            logp, ratio = logp / length, ratio / length
        if self.gamma != 1:  # else the sum of the tokens' small differences is the more exact one
            ratio = logp - self.gamma * (logp - ratio).detach()
        score = divergence_score(self.f_divergence_type, ratio, self.f_alpha_divergence_coef)
        scale = self._scale(batch)
        betas = (scale * self.beta, scale * (self.beta_rejected or self.beta))
        chosen, rejected = map(Answers, *(vector.chunk(2) for vector in (logp, ratio, score, length)), betas)
        return Pairs(chosen, rejected, self.label_smoothing, self.discopop_tau, self.simpo_gamma)

    def _scale(self, batch: Completions) -> Tensor | float:
        """β(δ)/β of MM-RLHF (2502.10391): from 1 at a margin of 0 or less to 1 + w."""
        if not self.margin_scale:
            return 1.0
        margin = batch.columns[MARGIN].to(batch.logp.dtype).clamp(min=0)
        return 1 - self.margin_scale * (-self.margin_rate * margin).expm1()


def _rewards(pairs: Pairs) -> Tensor:
    """β (log π − γ log π_ref) of each completion, (S,), whatever the divergence, as TRL logs them."""
    from torch import cat

    return cat([side.beta * side.log_ratio for side in (pairs.chosen, pairs.rejected)])


def _among(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
