"""Which of two answers is better, and how surely: P(first ≻ second) = σ(r₁ − r₂)."""

from __future__ import annotations

from reward.normalizing import sigmoid
from reward.spec import Comparison, ComparisonList, Score, ScoreList


def compared(scored: ScoreList) -> ComparisonList:
    """Scores in pairs, the first answer of each and then the second, as comparisons."""
    pairs = zip(scored.data[::2], scored.data[1::2], strict=True)
    return ComparisonList(
        model=scored.model,
        data=[_comparison(index, first, second) for index, (first, second) in enumerate(pairs)],
        usage=scored.usage,
        provenance=scored.provenance,
        warnings=scored.warnings,
    )


def _comparison(index: int, first: Score, second: Score) -> Comparison:
    margin = first.score - second.score
    return Comparison(
        index=index,
        probability=sigmoid(margin),
        margin=margin,
        first_score=first.score,
        second_score=second.score,
    )
