"""From sampled answers and their scores to one preference pair (2411.02481; core.md section 4.4)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from reward.frozen import Frozen

Dropped = Literal["equal_texts", "ties", "lengths", "unscorable"]


class Selection(Frozen):
    """How the two answers of a pair are chosen."""

    rejected: Literal["worst", "random"] = Field(
        "worst", description="The answer with the least score, or any that scores less than the best."
    )
    max_length_ratio: float | None = Field(
        None, gt=1, description="The longer answer of a pair is at most this many times as long, in characters."
    )
    min_margin: float = Field(0.0, ge=0, description="Scores nearer than this count as a tie.")


@dataclass(frozen=True)
class Chosen:
    """Places of the two answers among the samples."""

    best: int
    rejected: int


def choose(texts: Sequence[str], scores: Sequence[float], how: Selection, seed: int) -> Chosen | Dropped:
    """The pair, or why there is none; each text counts once, by its first sample.

    `equal_texts`: fewer than two different answers; `ties`: none scores less than the best; `lengths`: none that
    does is of like length.
    """
    first = list({text: place for place, text in reversed(list(enumerate(texts)))}.values())
    places = sorted(first)
    if len(places) < 2:
        return "equal_texts"
    best = max(places, key=lambda place: (scores[place], -place))
    less = [k for k in places if scores[k] < scores[best] and scores[best] - scores[k] >= how.min_margin]
    if not less:
        return "ties"
    like = [place for place in less if _like(texts[place], texts[best], how.max_length_ratio)]
    if not like:
        return "lengths"
    if how.rejected == "random":
        return Chosen(best, random.Random(seed).choice(like))  # noqa: S311 - repeatable, not secret
    return Chosen(best, min(like, key=lambda place: (scores[place], place)))


def _like(one: str, other: str, ratio: float | None) -> bool:
    return ratio is None or max(len(one), len(other)) <= ratio * min(len(one), len(other))
