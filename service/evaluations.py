"""Evaluations of rewards on preference files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from pydantic import Field

from reward.evaluating import Evaluation, Judged, accuracy, by_subset
from reward.spec import (
    INPUTS_PER_REQUEST,
    Aggregation,
    AnyInput,
    AnyNamedReward,
    Continuation,
    Conversation,
    Frozen,
    ScoreList,
    ScoreRequest,
)
from service import files
from service.errors import Invalid
from service.parts import Parts
from trainers.data import lines, preference
from trainers.data.fields import Message, Part, is_ids
from trainers.data.lines import BadLine, Row, Wrong
from trainers.data.prompts import plain


class EvaluationRequest(Frozen):
    """The body of `POST /v1/rewards/evaluate`."""

    model: AnyNamedReward
    file: str = Field(min_length=1, max_length=128, description="An uploaded preference file.")
    limit: int = Field(2000, ge=1, le=20_000, description="Pairs; the file's first.")
    aggregation: Aggregation | None = Field(None, description="As of scores; None: the reward's own.")
    truncation: Literal["error", "left"] = Field("error", description="As of scores.")
    skip: bool = Field(False, description="Leave out pairs that cannot be scored, and count them.")


@dataclass(frozen=True)
class Labelled:
    """A pair as it is scored, with its line's own marks."""

    line: int
    inputs: tuple[AnyInput, AnyInput]  #: chosen, rejected
    subset: str
    preference: float


def evaluate(request: EvaluationRequest, tenant: str, parts: Parts) -> Evaluation:
    """Score both answers of every pair. Raises Invalid for a file that is none, and what scoring raises."""
    with parts.database.snapshot() as db:
        file = files.get(db, request.file, tenant=tenant, param="file")
    try:
        labelled = list(islice(read_labelled(parts.settings.files / file.id), request.limit))
    except BadLine as bad:
        raise Invalid(f"{file.filename}: {bad}", param="file") from bad
    found = [
        scored
        for first in range(0, len(labelled), INPUTS_PER_REQUEST // 2)
        for scored in _scored(request, labelled[first : first + INPUTS_PER_REQUEST // 2], tenant, parts)
    ]
    judged = [pair for chunk, scored in found for pair in _judged(chunk, [row.score for row in scored.data])]
    if not judged:
        raise Invalid(f"none of the {len(labelled)} pairs could be scored", param="file")
    subsets = by_subset(judged)
    return Evaluation(
        model=request.model,
        overall=accuracy(judged),
        mean_of_subsets=sum(one.accuracy for one in subsets.values()) / len(subsets),
        subsets=subsets,
        skipped=len(labelled) - len(judged),
        provenance=found[-1][1].provenance,
        warnings=found[-1][1].warnings,
    )


Chunk = Sequence[Labelled]


def _scored(request: EvaluationRequest, chunk: Chunk, tenant: str, parts: Parts) -> list[tuple[Chunk, ScoreList]]:
    """A chunk's scores, or those of its pairs that can be scored; a refusal names the file's line."""
    inputs = [side for pair in chunk for side in pair.inputs]
    options = {name: getattr(request, name) for name in ("model", "aggregation", "truncation")}
    try:
        return [(chunk, parts.scores.score(ScoreRequest(**options, input=inputs), tenant))]
    except Invalid as refusal:
        place = re.match(r"input\[(\d+)\]", refusal.param or "")
        if place is None:
            raise
        if request.skip:
            ones = [chunk[k : k + 1] for k in range(len(chunk))] if len(chunk) > 1 else []
            return [found for one in ones for found in _scored(request, one, tenant, parts)]
        line = chunk[int(place[1]) // 2].line
        raise Invalid(f"line {line}: {refusal.message}", param="file") from refusal


def read_labelled(path: Path) -> Iterator[Labelled]:
    """The file's pairs with `subset` and `preference`. Raises BadLine as `lines.records` does."""
    return lines.records(path, _parse, preference.NOUN)


def _parse(number: int, row: Row) -> Labelled:
    pair = preference.parse(number, row)
    both = as_input(pair.prompt, pair.chosen, "chosen"), as_input(pair.prompt, pair.rejected, "rejected")
    return Labelled(number, both, str(row.get("subset") or "all"), _preference(row))


def as_input(prompt: Part, answer: Part, name: str) -> AnyInput:
    """A prompt and an answer of a preference file as what is scored; Wrong for what no reward reads."""
    if not answer:
        raise Wrong(f"{name} is empty")
    if isinstance(prompt, str) or is_ids(prompt):
        given = [part if isinstance(part, str) else list(part) for part in (prompt, answer)]
        return Continuation.model_validate({"prompt": given[0], "response": given[1]})
    messages = cast("tuple[Message, ...]", (*prompt, *answer))
    return Conversation.model_validate({"messages": plain(messages, "messages")})


def _preference(row: Row) -> float:
    value = row.get("preference", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Wrong("preference must be a number from 0 to 1: the share of raters for the chosen answer")
    return float(value)


def _judged(chunk: Sequence[Labelled], scores: Sequence[float]) -> list[Judged]:
    pairs = zip(chunk, scores[::2], scores[1::2], strict=True)
    return [Judged(chosen, rejected, pair.subset, pair.preference) for pair, chosen, rejected in pairs]
