"""Losses of pairs by name, each a small function of the same sums over answers; `dpo` adds them up.

Names and constants are TRL 1.16's `DPOConfig.loss_type`, but for `cdpo`, `ipo_sum`, `simpo`, `orpo` and `cpo`.
Below, s is a score, r = β s a reward, n a length in tokens, ε the label smoothing; w and l mark chosen and rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    PairLoss = Callable[["Pairs"], Tensor]

LossType = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
    "cdpo",
    "ipo_sum",
    "simpo",
    "orpo",
    "cpo",
]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

EVERY = frozenset(get_args(LossType))
#: the terms that compare with the order within a micro-batch, so that its pairs are not independent
BATCH_COUPLED = frozenset({"aot", "aot_unpaired"})
#: those that read the label smoothing
SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired", "cdpo", "cpo"})
#: those for which another f-divergence is defined: its log Z cancels only in the difference of scores
OF_SCORES = frozenset({"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"})
OF_SCORES |= {"cdpo", "ipo_sum"}
#: those that divide by the length themselves
NORMALISED = frozenset({"ipo", "sigmoid_norm", "simpo", "orpo", "sft"})
#: those without a reference
REFERENCE_FREE = frozenset({"simpo", "orpo", "cpo", "sft"})
#: those that compare with 1/(2β) or sort across answers, where two betas have no meaning, or have no reward
ONE_BETA = frozenset({"ipo", "ipo_sum", "sppo_hard", "aot", "aot_unpaired"}) | REFERENCE_FREE


@dataclass(frozen=True)
class Answers:
    """The chosen or the rejected answers of P pairs; every tensor is (P,), in nats where it is a log-probability."""

    logp: Tensor  #: log π(y), summed over tokens
    log_ratio: Tensor  #: log π(y) − γ log π_ref(y), summed over tokens
    score: Tensor  #: f'(π / π_ref) of the f-divergence; the log-ratio for reverse KL
    length: Tensor  #: tokens
    beta: float | Tensor  #: a number, or (P,)

    @property
    def ref_logp(self) -> Tensor:
        """γ log π_ref(y); no gradient."""
        return (self.logp - self.log_ratio).detach()

    @property
    def reward(self) -> Tensor:
        """β s."""
        return self.beta * self.score

    @property
    def mean_score(self) -> Tensor:
        """s / n."""
        return self.score / self.length

    @property
    def mean_logp(self) -> Tensor:
        """log π(y) / n."""
        return self.logp / self.length


@dataclass(frozen=True)
class Pairs:
    """P pairs and the settings that single losses read."""

    chosen: Answers
    rejected: Answers
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05
    simpo_gamma: float = 0.5

    @property
    def beta(self) -> float | Tensor:
        """β of the chosen answers, and of both unless a loss takes two."""
        return self.chosen.beta

    @property
    def margin(self) -> Tensor:
        """β_w s_w − β_l s_l."""
        return self.chosen.reward - self.rejected.reward


def log_sigmoid(x: Tensor) -> Tensor:
    """log σ(x), exact for large |x|."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)


def divergence_score(kind: Divergence, log_ratio: Tensor, alpha: float) -> Tensor:
    """f'(t) at log t = `log_ratio` (f-DPO, 2309.16240); the exponent of the α-divergence stops at 80, as TRL's does."""
    if kind == "forward_kl":
        return 1 - (-log_ratio).exp()
    if kind == "js_divergence":
        return math.log(2) + log_sigmoid(log_ratio)
    if kind == "alpha_divergence" and abs(alpha - 1) >= 1e-6:
        return (((alpha - 1) * log_ratio).clamp(max=80).exp() - 1) / (alpha - 1)
    return log_ratio


def _sigmoid(pairs: Pairs) -> Tensor:
    """DPO, 2305.18290 eq. 7: −log σ(r_w − r_l)."""
    return -log_sigmoid(pairs.margin)


def _hinge(pairs: Pairs) -> Tensor:
    """SLiC, 2305.10425: max(0, 1 − (r_w − r_l))."""
    return (1 - pairs.margin).relu()


def _ipo(pairs: Pairs) -> Tensor:
    """IPO, 2310.12036 eq. 17, on means over tokens: (s_w/n_w − s_l/n_l − 1/(2β))²."""
    return (pairs.chosen.mean_score - pairs.rejected.mean_score - 1 / (2 * pairs.beta)).square()


def _ipo_sum(pairs: Pairs) -> Tensor:
    """IPO, 2310.12036 eq. 17, as written there, on sums over tokens: (s_w − s_l − 1/(2β))²."""
    return (pairs.chosen.score - pairs.rejected.score - 1 / (2 * pairs.beta)).square()


def _exo_pair(pairs: Pairs) -> Tensor:
    """EXO, 2402.00856 eq. 16: KL((q, 1−q) ‖ (1−ε, ε)), q = σ(r_w − r_l)."""
    won, lost, smoothing = pairs.margin, -pairs.margin, pairs.label_smoothing
    return won.sigmoid() * (log_sigmoid(won) - math.log1p(-smoothing)) + lost.sigmoid() * (
        log_sigmoid(lost) - math.log(smoothing)
    )


def _nca_pair(pairs: Pairs) -> Tensor:
    """NCA, 2402.05369: −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l)."""
    chosen, rejected = pairs.chosen.reward, pairs.rejected.reward
    return -log_sigmoid(chosen) - (log_sigmoid(-chosen) + log_sigmoid(-rejected)) / 2


def _robust(pairs: Pairs) -> Tensor:
    """Robust DPO, 2403.00409: without bias where a share ε of the labels is flipped."""
    epsilon = pairs.label_smoothing
    clean, flipped = (1 - epsilon) * log_sigmoid(pairs.margin), epsilon * log_sigmoid(-pairs.margin)
    return (flipped - clean) / (1 - 2 * epsilon)


def _bco_pair(pairs: Pairs) -> Tensor:
    """BCO, 2404.04656, without its running mean: −log σ(r_w) − log σ(−r_l)."""
    return -log_sigmoid(pairs.chosen.reward) - log_sigmoid(-pairs.rejected.reward)


def _sppo_hard(pairs: Pairs) -> Tensor:
    """SPPO, 2405.00675 eq. 4.7 with P = 1: (s_w − 1/(2β))² + (s_l + 1/(2β))²."""
    goal = 1 / (2 * pairs.beta)
    return (pairs.chosen.score - goal).square() + (pairs.rejected.score + goal).square()


def _aot(pairs: Pairs) -> Tensor:
    """AOT, 2406.05882, paired: the policy's sorted margins against the reference's sorted margins."""
    policy = (pairs.chosen.logp - pairs.rejected.logp).sort().values
    return _smoothed(pairs, pairs.beta * (policy - (pairs.chosen.ref_logp - pairs.rejected.ref_logp).sort().values))


def _aot_unpaired(pairs: Pairs) -> Tensor:
    """AOT, 2406.05882, unpaired: sorted chosen scores against sorted rejected scores."""
    return _smoothed(pairs, pairs.beta * (pairs.chosen.score.sort().values - pairs.rejected.score.sort().values))


def _cdpo(pairs: Pairs) -> Tensor:
    """Conservative DPO: −(1−ε) log σ(r_w − r_l) − ε log σ(r_l − r_w)."""
    return _smoothed(pairs, pairs.margin)


def _smoothed(pairs: Pairs, margin: Tensor) -> Tensor:
    return -(1 - pairs.label_smoothing) * log_sigmoid(margin) - pairs.label_smoothing * log_sigmoid(-margin)


def _apo_zero(pairs: Pairs) -> Tensor:
    """APO, 2408.06266 eq. 7: 1 − σ(r_w) + σ(r_l)."""
    return 1 - pairs.chosen.reward.sigmoid() + pairs.rejected.reward.sigmoid()


def _apo_down(pairs: Pairs) -> Tensor:
    """APO, 2408.06266 eq. 8: σ(r_w) + 1 − σ(r_w − r_l)."""
    return pairs.chosen.reward.sigmoid() + 1 - pairs.margin.sigmoid()


def _discopop(pairs: Pairs) -> Tensor:
    """DiscoPOP, 2406.08414 eq. 5: (1−g)(−log σ(x)) + g exp(−x), x = r_w − r_l, g = σ(x/τ)."""
    blend = (pairs.margin / pairs.discopop_tau).sigmoid()
    return -(1 - blend) * log_sigmoid(pairs.margin) + blend * (-pairs.margin).exp()


def _sigmoid_norm(pairs: Pairs) -> Tensor:
    """−log σ(r_w/n_w − r_l/n_l)."""
    return -log_sigmoid(pairs.chosen.beta * pairs.chosen.mean_score - pairs.rejected.beta * pairs.rejected.mean_score)


def _simpo(pairs: Pairs) -> Tensor:
    """SimPO, 2405.14734 eq. 6: −log σ(β (log π(y_w)/n_w − log π(y_l)/n_l) − γ)."""
    return -log_sigmoid(pairs.beta * (pairs.chosen.mean_logp - pairs.rejected.mean_logp) - pairs.simpo_gamma)


def _orpo(pairs: Pairs) -> Tensor:
    """ORPO's ratio of odds, 2403.07691 eq. 7, times its weight λ = β; odds of the mean log-probability."""
    return -pairs.beta * log_sigmoid(_log_odds(pairs.chosen.mean_logp) - _log_odds(pairs.rejected.mean_logp))


def _log_odds(logp: Tensor) -> Tensor:
    """log p − log(1 − p), finite also where p rounds to 1."""
    from torch import finfo

    certain = logp.clamp(max=-finfo(logp.dtype).eps)
    return certain - (-certain.expm1()).log()


def _cpo(pairs: Pairs) -> Tensor:
    """CPO's preference term, 2401.08417 eq. 4, smoothed: DPO without a reference."""
    return _smoothed(pairs, pairs.beta * (pairs.chosen.logp - pairs.rejected.logp))


#: (P,) losses of the pairs; `sft` alone is not here: its unit is the token
PAIR_LOSSES: Mapping[LossType, PairLoss] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "ipo_sum": _ipo_sum,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "sigmoid_norm": _sigmoid_norm,
    "cdpo": _cdpo,
    "simpo": _simpo,
    "orpo": _orpo,
    "cpo": _cpo,
}
