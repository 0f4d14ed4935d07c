"""Records to examples: the prompt's ids once, its answers behind it, and what each of their tokens counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from trainers.data.encoder import Encoder
from trainers.data.examples import Answer, Example
from trainers.data.lines import BadLine
from trainers.data.marks import Said
from trainers.data.records import Record
from trainers.data.replies import EMPTY, LeftOut, Reply, reply
from trainers.data.supervised import Conversation, Text
from trainers.data.weights import token_weights

UNWEIGHTED = "no weighted token"


@dataclass(frozen=True)
class Planted:
    """What a record gives: its examples, and what is to be told of the way to them."""

    examples: tuple[Example, ...]  #: of a conversation perhaps several
    lost: Counter[str] = field(default_factory=Counter)  #: its turns that are not trained, by reason
    misread: str | None = None  #: `Encoder.misread`
    endless: bool = False  #: `Reply.endless` of its (first) answer


def plant(record: Record, encoder: Encoder) -> Planted:
    """The record as examples. Raises LeftOut, or BadLine where this model's tokenizer cannot take it."""
    if isinstance(record, Conversation):
        return _conversation(record, encoder)
    if isinstance(record, Text):
        return _text(record, encoder)
    replies = [reply(record.line, record.prompt, answer, record.tools, encoder) for answer in record.answers]
    _check(record.line, replies, encoder)
    if not all(any(one.weights) for one in replies):
        raise LeftOut(UNWEIGHTED)
    answers = tuple(_answer(one.ids, one.weights) for one in replies)
    example = Example(record.line, _tensor(replies[0].asked), answers, record.columns)
    return Planted((example,), misread=_misread(replies), endless=replies[0].endless)


def _conversation(record: Conversation, encoder: Encoder) -> Planted:
    """All up to the last answer, with the weights of each answer that stands in it just as it is asked for and given.

    Where the template renders some differently once more follows (without their thoughts), those are examples too.
    """
    replies, lost = _replies(record, encoder)
    if not replies:
        raise LeftOut(lost.most_common(1)[0][0] if lost else UNWEIGHTED)
    examples, left = [], replies
    while left:
        _check(record.line, left[-1:], encoder)
        whole = left[-1].asked + left[-1].ids
        held = [one for one in left if whole[: len(one.asked) + len(one.ids)] == one.asked + one.ids]
        examples.append(_trunk(record, whole, held))
        left = [one for one in left if one not in held]
    return Planted(tuple(examples[::-1]), lost, _misread(replies), replies[-1].endless)


def _trunk(record: Conversation, whole: list[int], held: Sequence[Reply]) -> Example:
    weights = [0.0] * len(whole)
    for one in held:
        weights[len(one.asked) : len(one.asked) + len(one.ids)] = one.weights
    return _split(record.line, whole, weights, record.columns)


def _replies(record: Conversation, encoder: Encoder) -> tuple[list[Reply], Counter[str]]:
    replies, lost = [], Counter[str]()
    for place, marks in enumerate(record.marks):
        if marks is None or not marks.weight:
            continue
        answer = Said((record.messages[place],), marks)
        try:
            replies.append(reply(record.line, record.messages[:place], answer, record.tools, encoder))
        except LeftOut as reason:
            lost[str(reason)] += 1
    return replies, lost


def _text(record: Text, encoder: Encoder) -> Planted:
    """All after the first token, and the end."""
    tokens = encoder.ended(encoder.tokens(record.text, special=True, places=bool(record.marks.spans)))
    if not record.text.strip() or len(tokens.ids) < 2:
        raise LeftOut(EMPTY)
    weights = [0.0, *token_weights(record.line, tokens, record.marks)[1:]]
    misread = encoder.misread(tokens.ids, record.text, [record.text])
    _check(record.line, [Reply(tokens.ids[:1], tokens.ids[1:], weights[1:])], encoder)
    return Planted((_split(record.line, tokens.ids, weights, record.columns),), misread=misread)


def _split(line: int, ids: list[int], weights: list[float], columns: Mapping[str, float]) -> Example:
    """The prompt up to the first token that counts, the answer up to the last."""
    counted = [place for place, weight in enumerate(weights) if weight]
    if not counted:
        raise LeftOut(UNWEIGHTED)
    first, end = counted[0], counted[-1] + 1
    return Example(line, _tensor(ids[:first]), (_answer(ids[first:end], weights[first:end]),), columns)


def _answer(ids: list[int], weights: list[float]) -> Answer:
    plain = all(weight == 1 for weight in weights)
    return Answer(_tensor(ids), None if plain else torch.tensor(weights, dtype=torch.float32))


def _tensor(ids: list[int]) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int64)


def _misread(replies: Sequence[Reply]) -> str | None:
    return next((one.misread for one in replies if one.misread), None)


def _check(line: int, replies: Sequence[Reply], encoder: Encoder) -> None:
    names = ("preferred answer", "non-preferred answer") if len(replies) > 1 else ("answer",)
    for name, part in (("prompt", replies[0].asked), *zip(names, (one.ids for one in replies), strict=True)):
        if not part:
            raise BadLine(line, f"the {name} has no tokens")
        if max(part) >= encoder.vocabulary:
            known = encoder.vocabulary - 1
            raise BadLine(line, f"the {name} holds token id {max(part)}; the model knows 0 to {known}")
