"""What each token of an answer counts, from the marks of its characters. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.data.encoder import STAND_IN, Tokens
from trainers.data.lines import BadLine
from trainers.data.marks import Marks, Span


def token_weights(line: int, tokens: Tokens, marks: Marks) -> list[float]:
    """What each token counts: its characters' mean weight, those outside of all spans 1, times the answer's own.

    Raises BadLine where there are spans and the tokenizer cannot tell which characters its tokens stand for.
    """
    if not marks.spans:
        return [marks.weight] * len(tokens.ids)
    if tokens.places is None:
        raise BadLine(line, "token_weights need a tokenizer that tells its tokens' places, and this model's does not")
    return [marks.weight * _mean(start, end, marks.spans) for start, end in tokens.places]


def in_rendering(line: int, marks: Marks, content: str, rendered: str, marked: str) -> Marks:
    """The marks of a content, moved to where the template puts it: some templates strip it first.

    `marked` is the rendering with STAND_IN in the content's place. Raises BadLine where the content has none.
    """
    start, stripped = marked.find(STAND_IN), content.strip()
    rest = rendered[max(start, 0) :]
    lead, kept = (0, content) if rest.startswith(content) else (content.find(stripped), stripped)
    if start < 0 or not rest.startswith(kept):
        raise BadLine(line, "the model's chat template rewrites this answer, so token_weights have no place in it")
    shift, end = start - lead, start + len(kept)
    moved = (Span(max(span.start + shift, start), min(span.end + shift, end), span.weight) for span in marks.spans)
    return Marks(marks.weight, tuple(span for span in moved if span.start < span.end))


def _mean(start: int, end: int, spans: Sequence[Span]) -> float:
    if start >= end:
        return 1.0
    shares = [(max(0, min(end, span.end) - max(start, span.start)), span.weight) for span in spans]
    bare = end - start - sum(length for length, _ in shares)
    return (bare + sum(length * weight for length, weight in shares)) / (end - start)
