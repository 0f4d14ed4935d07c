"""An answer behind its prompt, as ids with weights: what is sent when it is asked, and what the model must produce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.data.encoder import STAND_IN, Encoder
from trainers.data.fields import Message, Part, is_ids
from trainers.data.marks import Marks, Said
from trainers.data.weights import in_rendering, token_weights

UNCLEAN = "no clean cut between prompt and answer"
REWRITTEN = "the chat template renders the prompt differently once it is answered"
EMPTY = "empty answer"


class LeftOut(Exception):
    """Something that is not trained on; the text is the reason it is counted under."""


@dataclass(frozen=True)
class Reply:
    """An answer with the prompt it was made for."""

    asked: list[int]
    ids: list[int]
    weights: list[float]  #: of each of `ids`
    misread: str | None = None  #: `Encoder.misread`
    endless: bool = False  #: whether the template gives it no token that stops a generation


def reply(line: int, prompt: Part, answer: Said, tools: Sequence[Message] | None, encoder: Encoder) -> Reply:
    """The answer's ids behind the prompt's, in any of their three forms.

    Raises LeftOut with the reason why there are none, BadLine where the tokenizer cannot take it at all.
    """
    if answer.empty:
        raise LeftOut(EMPTY)
    if isinstance(prompt, str):
        return _of_texts(line, prompt, str(answer.part), answer.marks, encoder)
    if is_ids(prompt):
        assert is_ids(answer.part)  # noqa: S101 - the reader has seen to it
        return _of_ids(prompt, answer.part, answer.marks)
    return _of_messages(line, prompt, answer, tools, encoder)


def _of_texts(line: int, prompt: str, answer: str, marks: Marks, encoder: Encoder) -> Reply:
    asked = encoder.tokens(prompt, special=True).ids
    cut = encoder.after(asked, prompt, answer, special=True, places=bool(marks.spans))
    if cut is None or not cut.ids:
        raise LeftOut(UNCLEAN)
    misread = encoder.misread(asked + cut.ids, prompt + answer, [prompt, answer])
    whole = encoder.ended(cut)
    return Reply(asked, whole.ids, token_weights(line, whole, marks), misread)


def _of_ids(prompt: tuple[int, ...], answer: tuple[int, ...], marks: Marks) -> Reply:
    each = marks.tokens or (1.0,) * len(answer)
    return Reply(list(prompt), list(answer), [marks.weight * weight for weight in each])


def _of_messages(
    line: int, before: Sequence[Message], answer: Said, tools: Sequence[Message] | None, encoder: Encoder
) -> Reply:
    """The answer as the template renders it behind what is rendered to ask for it, up to where the model stops."""
    message: Message = answer.part[0]  # type: ignore[assignment]
    prompt = encoder.render(line, before, tools, generate=True)
    whole = encoder.render(line, [*before, message], tools, generate=False)
    if not whole.startswith(prompt):
        raise LeftOut(REWRITTEN)
    rendered, marks = whole[len(prompt) :], answer.marks
    asked = encoder.tokens(prompt, special=False).ids
    cut = encoder.after(asked, prompt, rendered, special=False, places=bool(marks.spans))
    if cut is None or not cut.ids:
        raise LeftOut(UNCLEAN)
    misread = encoder.misread(asked + cut.ids, whole, [one["content"] for one in (*before, message)])
    if marks.spans:
        marked = encoder.render(line, [*before, {**message, "content": STAND_IN}], tools, generate=False)
        marks = in_rendering(line, marks, message["content"], rendered, marked[len(prompt) :])
    turn = encoder.produced(cut)
    return Reply(asked, turn.ids, token_weights(line, turn, marks), misread, not encoder.stops_after(turn.ids))
