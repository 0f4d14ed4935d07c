"""Files to what is trained on: every line's example, or the reason why it is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from trainers.data.encoder import Encoder
from trainers.data.examples import Answer, Example
from trainers.data.records import Record
from trainers.data.replies import LeftOut
from trainers.data.trees import Planted, plant
from trainers.errors import Unusable
from trainers.objectives.base import Data

NOUNS: dict[Data, str] = {"preference": "pair", "supervised": "conversation", "binary": "answer"}
LATER = "turns that the chat template renders differently once more follows"


@dataclass(frozen=True)
class Examples:
    """What is trained on, how much was left out for which reason, and what else there is to say."""

    rows: list[Example]
    dropped: Counter[str] = field(default_factory=Counter)
    noun: str = "pair"
    lost: Counter[str] = field(default_factory=Counter)  #: turns of kept conversations that are not trained
    apart: int = 0  #: examples beyond the first of a conversation
    misread: list[tuple[int, str]] = field(default_factory=list)  #: lines that the tokenizer changes, and where
    endless: int = 0  #: answers that end without a token that stops a generation

    def describe(self) -> str:
        """`228 pairs (3 left out: identical answers)`, and a clause for all else that its owner should know."""
        why = [f"{count} left out: {reason}" for reason, count in sorted(self.dropped.items())]
        if self.apart:
            why.append(f"{_counted(self.apart, 'further example')} of {LATER}")
        why += [f"{_counted(count, 'turn')} not trained: {reason}" for reason, count in sorted(self.lost.items())]
        if self.misread:
            line, what = self.misread[0]
            why.append(f"the tokenizer changes characters of {len(self.misread)}: line {line} has {what}")
        if self.endless:
            why.append(f"{self.endless} end without a token that stops a generation")
        return _counted(len(self.rows) - self.apart, self.noun) + (f" ({', '.join(why)})" if why else "")

    def data(self) -> dict[str, Any]:
        """The same for those who read events by program."""
        turns = {"turns_not_trained": dict(self.lost)} if self.lost else {}
        return {"left_out": dict(self.dropped), **turns, "misread_lines": [line for line, _ in self.misread[:16]]}


def tokenise(
    records: Iterable[Record],
    encoder: Encoder,
    *,
    limit: int,
    data: Data = "preference",
    param: str = "training_file",
) -> Examples:
    """All records as token ids, those left out that say nothing or do not fit `limit` tokens.

    Raises BadLine for a line that this model's tokenizer cannot take, Unusable where nothing is left.
    """
    kept = Examples([], noun=NOUNS[data])
    endless = apart = 0
    for record in records:
        try:
            planted = plant(record, encoder)
            examples = _fitting(planted, limit)
        except LeftOut as reason:
            kept.dropped[str(reason)] += 1
            continue
        kept.rows.extend(examples)
        kept.lost.update(planted.lost)
        kept.misread.extend((record.line, what) for what in (planted.misread,) if what)
        endless += planted.endless
        apart += len(examples) - 1
    kept = replace(kept, endless=endless, apart=apart)
    if data == "binary":
        kept = replace(kept, rows=_mismatched(kept.rows, limit))
    least = 2 if data == "binary" else 1
    if len(kept.rows) < least:
        raise _too_few(kept, least, param)
    return kept


def _fitting(planted: Planted, limit: int) -> list[Example]:
    """The examples that fit; turns by themselves that do not are counted as lost."""
    first = planted.examples[0]
    if len(first.answers) > 1 and torch.equal(first.answers[0].ids, first.answers[1].ids):
        raise LeftOut("identical answers")
    fitting = [one for one in planted.examples if len(one.prompt) + max(map(len, one.answers)) <= limit]
    if not fitting:
        raise LeftOut(f"longer than {limit} tokens")
    too_long = len(planted.examples) - len(fitting)
    planted.lost.update({f"longer than {limit} tokens": too_long} if too_long else {})
    return fitting


def _mismatched(rows: list[Example], limit: int) -> list[Example]:
    """Each example with the next one's answer as its second (after the last comes the first), cut to what fits.

    2402.01306: the pairs (x_i, y_j) whose log-ratio estimates KL(π ‖ π_ref).
    """
    return [
        replace(row, answers=(row.answers[0], _first_of(following.answers[0], limit - len(row.prompt))))
        for row, following in pairwise([*rows, *rows[:1]])
    ]


def _first_of(answer: Answer, count: int) -> Answer:
    return Answer(answer.ids[:count], answer.weights if answer.weights is None else answer.weights[:count])


def _too_few(kept: Examples, least: int, param: str) -> Unusable:
    code = f"no_usable_{kept.noun}s"
    if kept.rows:
        sentence = f"{least} {kept.noun}s are needed, and the file has {kept.describe()}"
    else:
        sentence = f"no {kept.noun} is left to train on: {kept.describe()}"
    return Unusable(sentence, code=code, param=param)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
