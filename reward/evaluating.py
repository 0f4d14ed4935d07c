"""How often a reward prefers the answer that people preferred, per subset, with confidence intervals.

Files are in RewardBench's layout or any preference file's: `subset` groups pairs, `preference` is the share of raters
that preferred the chosen answer (1 if absent). A tie counts half; with a soft label p the preferred side earns p, the
other 1 − p. Accuracy is over all pairs; `mean_of_subsets` weighs every subset alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from reward.frozen import Frozen
from reward.spec import AnyNamedReward, Provenance

#: two-sided 95 %
Z = 1.959963984540054


@dataclass(frozen=True)
class Judged:
    """One pair: what the reward says of both answers, and what people say."""

    chosen: float
    rejected: float
    subset: str = "all"
    preference: float = 1.0  #: share of raters for `chosen`

    @property
    def credit(self) -> float:
        """1 where the reward agrees, 0 where it does not, ½ for a tie; p and 1 − p for soft labels."""
        if self.chosen == self.rejected:
            return 0.5
        return self.preference if self.chosen > self.rejected else 1 - self.preference


class Accuracy(Frozen):
    """Of some pairs; the interval is Wilson's, at 95 %."""

    accuracy: float
    low: float
    high: float
    pairs: int
    ties: int
    mean_margin: float = Field(description="Of chosen − rejected.")


class Evaluation(Frozen):
    """What `POST /v1/rewards/evaluate` answers."""

    object: str = "reward.evaluation"
    model: AnyNamedReward
    overall: Accuracy
    mean_of_subsets: float
    subsets: dict[str, Accuracy]
    skipped: int = Field(0, description="Pairs that could not be scored and are in no figure.")
    provenance: Provenance | None = None
    warnings: list[str] = Field([], description="What is odd, in sentences.")


def accuracy(judged: Sequence[Judged]) -> Accuracy:
    """Of one pair or more."""
    n = len(judged)
    share = math.fsum(pair.credit for pair in judged) / n
    low, high = wilson(share, n)
    return Accuracy(
        accuracy=share,
        low=low,
        high=high,
        pairs=n,
        ties=sum(pair.chosen == pair.rejected for pair in judged),
        mean_margin=math.fsum(pair.chosen - pair.rejected for pair in judged) / n,
    )


def by_subset(judged: Sequence[Judged]) -> dict[str, Accuracy]:
    """Accuracy of each subset, by name."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for pair in judged:
        groups[pair.subset].append(pair)
    return {name: accuracy(groups[name]) for name in sorted(groups)}


def wilson(share: float, n: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a share of n (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
