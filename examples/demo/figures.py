"""The run in numbers: what the table shows, the plots draw and the last line prints."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from examples.demo import corpus
from reward.spec import Score

#: share of the logged steps whose mean stands for the end of a run
LAST = 0.1


@dataclass(frozen=True)
class Figures:
    """What a run came to; None where it cannot be said."""

    method: str
    steps: int
    loss_first: float
    loss_last: float | None  #: this and what else ends in `last`: mean over the last tenth of the logged steps
    margin_last: float | None
    accuracy_last: float | None
    kl_chosen_last: float | None  #: nats per answer
    kl_rejected_last: float | None
    favourable_before: float | None  #: share of the sampled answers
    favourable_after: float | None
    well_formed_before: float | None  #: share of them that the grammar could have written
    well_formed_after: float | None
    answers_per_model: int
    held_out_pairs: int
    held_out_ranked_right: float  #: share whose chosen answer scores above the rejected one
    reward_chosen: float  #: of the held-out pair shown, in nats
    reward_rejected: float
    mask_density: float | None
    mask_mean: float | None
    mask_on_sentiment: float | None  #: mean over the tokens of the grammar's sentiment words
    mask_on_other_words: float | None
    log_ratio_on_sentiment: float | None  #: mean of its size
    log_ratio_on_other_words: float | None

    def as_json(self) -> dict[str, Any]:
        """Rounded to four digits; NaN and None alike become null."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Results:
    """What the steps of the demo brought back."""

    curve: Sequence[dict[str, float]]  #: the job's metrics, one entry per logged step
    before: Sequence[Sequence[str]]  #: answers of the base model, a group per prompt
    after: Sequence[Sequence[str]]  #: of the policy
    scores: Sequence[tuple[Score, Score]]  #: of the held-out pairs, chosen and rejected
    masks: dict[str, Any]  #: the attempt's `token_masks.json`


def gather(method: str, results: Results, *, reviews: bool) -> Figures:
    """All figures of a run; those that count the grammar's words only where the answers are its reviews."""
    curve, shown = results.curve, results.scores[0]
    mask, ratio = (contrast(results.masks, column) if reviews else None for column in ("mask", "log_ratio"))
    return Figures(
        method=method,
        steps=int(curve[-1]["step"]),
        loss_first=curve[0]["train_loss"],
        loss_last=at_the_end(curve, "train_loss"),
        margin_last=at_the_end(curve, "rewards/margins"),
        accuracy_last=at_the_end(curve, "rewards/accuracies"),
        kl_chosen_last=divergence(results.masks, "chosen"),
        kl_rejected_last=divergence(results.masks, "rejected"),
        favourable_before=favourable_share(results.before) if reviews else None,
        favourable_after=favourable_share(results.after) if reviews else None,
        well_formed_before=well_formed_share(results.before) if reviews else None,
        well_formed_after=well_formed_share(results.after) if reviews else None,
        answers_per_model=sum(map(len, results.after)),
        held_out_pairs=len(results.scores),
        held_out_ranked_right=ranked_right(results.scores),
        reward_chosen=shown[0].score,
        reward_rejected=shown[1].score,
        mask_density=at_the_end(curve, "mask/density"),
        mask_mean=at_the_end(curve, "mask/mean"),
        mask_on_sentiment=mask and mask[0],
        mask_on_other_words=mask and mask[1],
        log_ratio_on_sentiment=ratio and ratio[0],
        log_ratio_on_other_words=ratio and ratio[1],
    )


def at_the_end(curve: Sequence[dict[str, float]], name: str) -> float | None:
    """Mean of a metric over the last tenth of the logged steps; None if it was not logged."""
    values = [step[name] for step in curve[-max(1, math.ceil(LAST * len(curve))) :] if name in step]
    return fmean(values) if values else None


def favourable_share(answers: Sequence[Sequence[str]]) -> float:
    """Share of the reviews that praise more than they blame."""
    return fmean(corpus.tone(answer) > 0 for group in answers for answer in group)


def well_formed_share(answers: Sequence[Sequence[str]]) -> float:
    """Share of the reviews that the grammar could have written: a policy that overdoes it loses its language."""
    return fmean(corpus.well_formed(answer) for group in answers for answer in group)


def ranked_right(scores: Sequence[tuple[Score, Score]]) -> float:
    """Share of (chosen, rejected) whose first scores higher."""
    return fmean(chosen.score > rejected.score for chosen, rejected in scores)


def sentiment_tokens(tokens: Sequence[str]) -> list[bool]:
    """Which tokens are part of a word that the grammar praises or blames with."""
    text, ends = "".join(tokens), list(accumulate(map(len, tokens)))
    spans = [found.span() for found in re.finditer(r"[A-Za-z]+", text) if corpus.is_sentiment(found[0])]
    starts = [0, *ends[:-1]]
    return [any(a < end and start < b for a, b in spans) for start, end in zip(starts, ends, strict=True)]


def contrast(masks: dict[str, Any], column: str) -> tuple[float, float] | None:
    """Mean size of a per-token column on sentiment words and on all other tokens; None if it is not there."""
    groups: dict[bool, list[float]] = {True: [], False: []}
    for answer in (pair[side] for pair in masks["examples"] for side in ("chosen", "rejected")):
        for flag, value in zip(sentiment_tokens(answer["tokens"]), answer.get(column, ()), strict=False):
            groups[flag].append(abs(value))
    return (fmean(groups[True]), fmean(groups[False])) if groups[True] and groups[False] else None


def divergence(masks: dict[str, Any], side: str) -> float | None:
    """Mean over the shown answers of Σ_t KL(π_ref ‖ π), in nats; None where there is none."""
    answers = [pair[side] for pair in masks["examples"] if "kl" in pair[side]]
    return fmean(sum(answer["kl"]) for answer in answers) if answers else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
