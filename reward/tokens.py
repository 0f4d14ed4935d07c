"""From what a caller sends to token ids: where the prompt ends and the answer, which is scored, begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward.engine import Engine
from reward.errors import Invalid
from reward.inputs import AnyInput, Continuation, Conversation, Exchange, Masked, Message

#: end cleanly in most vocabularies: what follows them is tokenised as inside a text, not as at its beginning
ANCHORS = ("\n", ".", "a", " ")


@dataclass(frozen=True)
class Tokens:
    """An input as ids, and which of them are scored."""

    ids: list[int]
    scored: list[int]  #: places in `ids`, ascending, none of them 0
    truncated: bool = False  #: the prompt's beginning was dropped

    @property
    def start(self) -> int:
        """The place of the first token that is scored; all before it is prompt."""
        return self.scored[0]

    def fitted(self, most: int) -> Tokens:
        """With the prompt's beginning dropped until `most` tokens are left, one of the prompt's at least."""
        surplus = len(self.ids) - most
        if surplus <= 0:
            return self
        return Tokens(self.ids[surplus:], [place - surplus for place in self.scored], truncated=True)


async def tokens(index: int, given: AnyInput, engine: Engine) -> Tokens:
    """The input in the engine's tokens. Raises Invalid, naming the input, if prompt and answer cannot be told apart."""
    param = f"input[{index}]"
    if isinstance(given, Masked):
        places = [place for place, scored in enumerate(given.response_mask) if scored]
        return Tokens(given.token_ids, places)
    ids, start = await _parts(param, given, engine)
    if not start:
        raise Invalid(f"{param} has an empty prompt: an answer's first token needs one to depend on", param=param)
    if start == len(ids):
        raise Invalid(f"{param} has an answer without a token", param=param)
    return Tokens(ids, list(range(start, len(ids))))


async def _parts(param: str, given: AnyInput, engine: Engine) -> tuple[list[int], int]:
    """Ids, and the place where the answer begins."""
    match given:
        case Conversation(messages=messages):
            return await turns(param, messages, engine)
        case Exchange(query=query, answer=answer) if engine.has_template:
            asked, said = Message(role="user", content=query), Message(role="assistant", content=answer)
            return await turns(param, [asked, said], engine)
        case Exchange(query=query, answer=answer):
            return await texts(param, query, answer, engine)
        case Continuation(prompt=str(prompt), response=str(response)):
            return await texts(param, prompt, response, engine)
        case Continuation(prompt=list(before), response=list(after)):
            return [*before, *after], len(before)
    raise Invalid(f"{param}: prompt and response must both be text or both be token ids", param=param)


async def turns(param: str, messages: Sequence[Message], engine: Engine) -> tuple[list[int], int]:
    """The template of the engine, once up to the answer and once with it."""
    *before, last = messages
    if last.role != "assistant":
        raise Invalid(f"{param}.messages must end with the assistant's answer", param=f"{param}.messages")
    if not last.content:
        raise Invalid(f"{param} has an empty answer", param=f"{param}.messages")
    prompt = await engine.rendered(before, answer_follows=True)
    whole = await engine.rendered(messages, answer_follows=False)
    asked, read = await engine.text(prompt), await engine.text(whole)
    if not read.startswith(asked):
        said = f"{param}: the {engine.role}'s template renders the prompt differently once it is answered"
        raise Invalid(f"{said}; send prompt and response as token ids", param=param)
    return await cut(param, prompt, whole, read.removeprefix(asked), engine)


async def texts(param: str, prompt: str, response: str, engine: Engine) -> tuple[list[int], int]:
    """A text and what follows it, as one text to the tokenizer."""
    before = await engine.tokens(prompt, special=True)
    whole = await engine.tokens(prompt + response, special=True)
    return await cut(param, before, whole, response, engine)


async def cut(param: str, before: list[int], whole: list[int], answer: str, engine: Engine) -> tuple[list[int], int]:
    """The answer's ids after exactly the prompt's: those of the whole where the prompt's stay as they are in it, else
    those the answer has inside another text, if that reads the same. The prompt never moves into the answer."""
    if whole[: len(before)] == before:
        return whole, len(before)
    read = await engine.text(whole)
    for anchor in ANCHORS:
        head = await engine.tokens(anchor, special=False)
        joint = await engine.tokens(anchor + answer, special=False)
        ids = [*before, *joint[len(head) :]]
        if joint[: len(head)] == head and await engine.text(ids) == read:
            return ids, len(before)
    said = f"{param}: the tokenizer merges the prompt's end with the answer's beginning"
    raise Invalid(f"{said}; send both as token ids", param=param)
