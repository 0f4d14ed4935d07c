"""What the parts of an answer count: a weight for all of it, and weights of spans of its characters. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainers.data.fields import (
    TOKEN_WEIGHTS,
    WEIGHT,
    Message,
    Part,
    bare,
    is_ids,
    messages,
    number,
    required,
    text,
    token_ids,
)
from trainers.data.lines import Row, Wrong


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of a content, counted as Unicode code points."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Marks:
    """The weights of an answer; a token counts `weight` times what its spans or its place in `tokens` say."""

    weight: float = 1.0
    spans: tuple[Span, ...] = ()  #: in order, not overlapping; characters outside of them count 1
    tokens: tuple[float, ...] | None = None  #: one for each token, where the answer is token ids


PLAIN = Marks()


@dataclass(frozen=True)
class Said:
    """An answer, in the form of its prompt, with its marks."""

    part: Part
    marks: Marks = PLAIN

    @property
    def empty(self) -> bool:
        """Whether it has neither a character that shows nor a tool call."""
        if isinstance(self.part, str):
            return not self.part.strip()
        first = self.part[0]
        return isinstance(first, dict) and not first["content"].strip() and not first.get("tool_calls")


def said(row: Row, name: str, prompt: Part) -> Said:
    """TRL's `chosen`, `rejected` or `completion`, in the prompt's form, with its sibling `<name>_token_weights`."""
    value, beside = required(row, name), f"{name}_{TOKEN_WEIGHTS}"
    weights = row.get(beside)
    if isinstance(prompt, str):
        answer = text(value, name)
        return Said(answer, Marks(spans=spans(weights, beside, answer)))
    if is_ids(prompt):
        ids = token_ids(value, name)
        return Said(ids, Marks(tokens=_of_tokens(weights, beside, len(ids))))
    return said_message(row, name, weights, beside)


def said_message(row: Row, name: str, weights: Any = None, beside: str = "") -> Said:
    """The one message of the assistant that the field holds."""
    found = messages(required(row, name), name)
    if len(found) != 1 or found[0]["role"] != "assistant":
        raise Wrong(f"{name} must be one message of the assistant")
    return Said((bare(found[0]),), marks(found[0], f"{name}[0]", weights, beside))


def marks(message: Message, name: str, weights: Any = None, beside: str = "") -> Marks:
    """The message's own `weight` and `token_weights`; the latter may stand beside the messages instead."""
    inside = message.get(TOKEN_WEIGHTS)
    if inside is not None and weights is not None:
        raise Wrong(f"give {name}.{TOKEN_WEIGHTS} or {beside}, not both")
    where = f"{name}.{TOKEN_WEIGHTS}" if weights is None else beside
    weight = message.get(WEIGHT)
    return Marks(
        1.0 if weight is None else number(weight, f"{name}.{WEIGHT}"),
        spans(inside if weights is None else weights, where, message["content"]),
    )


def spans(value: Any, name: str, content: str) -> tuple[Span, ...]:
    """`[{"start", "end", "weight"}, ...]` over the characters of a content, in order."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Wrong(f"{name} must be a list of objects with start, end and weight")
    found = [_span(item, f"{name}[{place}]", len(content)) for place, item in enumerate(value)]
    ordered = tuple(sorted(found, key=lambda span: span.start))
    for before, after in pairwise(ordered):
        if after.start < before.end:
            raise Wrong(f"{name} holds two spans over character {after.start}")
    return ordered


def _span(value: Any, name: str, length: int) -> Span:
    if not isinstance(value, dict):
        raise Wrong(f"{name} must be an object with start, end and weight")
    start, end = required(value, "start", f"{name}.start"), required(value, "end", f"{name}.end")
    if not (type(start) is int and type(end) is int and 0 <= start < end <= length):
        raise Wrong(f"{name} must go from a start to a later end within the {length} characters of its text")
    return Span(start, end, number(required(value, "weight", f"{name}.weight"), f"{name}.weight"))


def _of_tokens(value: Any, name: str, count: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count:
        raise Wrong(f"{name} must be a list of {count} numbers, one for each token id")
    return tuple(number(item, f"{name}[{place}]") for place, item in enumerate(value))
