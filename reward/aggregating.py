"""From token scores to one score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reward.errors import Invalid
from reward.models.base import Aggregation


def aggregated(scores: Sequence[float], how: Aggregation, *, clip: float, steps: Sequence[float] | None) -> float:
    """Σ, Σ / n, Σ of each clamped to ±clip, or the least step; sums are exact (`math.fsum`)."""
    if how == "mean":
        return math.fsum(scores) / len(scores)
    if how == "per_token_clipped":
        return math.fsum(max(-clip, min(clip, score)) for score in scores)
    if how == "min_step":
        if steps is None:
            raise Invalid("aggregation `min_step` belongs to a reward with step_delimiter", param="aggregation")
        return min(steps)
    return math.fsum(scores)
