"""Both answers becoming less likely: the usual way in which preference training goes wrong (2406.07327)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: metrics events in a row
STRETCH = 10
DRIFTS = ("drift/chosen", "drift/rejected")
#: before the name of what is logged of a few examples only
SAMPLED = "sampled/"
WARNING = (
    f"Chosen and rejected answers have both been less likely than under the reference for {STRETCH} metrics events, "
    "and are still falling: a larger beta, a smaller learning rate or an sft term would hold them"
)


def both_fall(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether both drifts were below 0 in the last STRETCH records, lower in the later half than in the earlier."""
    last = history[-STRETCH:]
    curves = [[record.get(name, record.get(f"{SAMPLED}{name}")) for record in last] for name in DRIFTS]
    if len(last) < STRETCH or any(drift is None for curve in curves for drift in curve):
        return False
    return all(_falls([float(drift) for drift in curve]) for curve in curves)


def _falls(drifts: Sequence[float]) -> bool:
    half = len(drifts) // 2
    return max(drifts) < 0 and sum(drifts[half:]) / (len(drifts) - half) < sum(drifts[:half]) / half


def first_fall(history: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning where both fall at the last record and did at none before it."""
    fell = both_fall(history) and not any(both_fall(history[:end]) for end in range(STRETCH, len(history)))
    return WARNING if fell else None
