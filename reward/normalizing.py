"""Scores made comparable: over a request or within each of its groups."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Literal

Normalization = Literal["none", "zscore", "sigmoid", "rank_in_group"]


def normalized(scores: Sequence[float], how: Normalization, groups: Sequence[int] | None) -> list[float]:
    """`zscore` and `rank_in_group` within each group, over all scores where there are no groups."""
    if how == "sigmoid":
        return [sigmoid(score) for score in scores]
    if how == "none":
        return list(scores)
    places: dict[int, list[int]] = defaultdict(list)
    for place in range(len(scores)):
        places[groups[place] if groups is not None else 0].append(place)
    change = standardized if how == "zscore" else ranked
    return change(scores, list(places.values()))


def standardized(scores: Sequence[float], groups: Sequence[Sequence[int]]) -> list[float]:
    """(r − mean) / std in each group of places, the population's std; 0 where all are equal."""
    found = [0.0] * len(scores)
    for places in groups:
        own = [scores[place] for place in places]
        mean, std = fmean(own), pstdev(own)
        for place in places:
            found[place] = (scores[place] - mean) / std if std > 0 else 0.0
    return found


def ranked(scores: Sequence[float], groups: Sequence[Sequence[int]]) -> list[float]:
    """The share of the others in its group that a score beats, a tie counting half; ½ for one alone."""
    found = [0.5] * len(scores)
    for places in groups:
        for place in places:
            others = [scores[other] for other in places if other != place]
            if others:
                beaten = sum(scores[place] > other for other in others) + sum(scores[place] == o for o in others) / 2
                found[place] = beaten / len(others)
    return found


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
