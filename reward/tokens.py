"""From what a caller sends to token ids: where the prompt ends and the answer, which is scored, begins."""

from __future__ import annotations

from dataclasses import dataclass

from reward.engine import Engine
from reward.errors import Invalid
from reward.spec import Continuation, Conversation

#: end cleanly in most vocabularies: what follows them is tokenised as inside a text, not as at its beginning
ANCHORS = ("\n", ".", "a", " ")


@dataclass(frozen=True)
class Tokens:
    """An input as ids; `start` is the index of the answer's first token: all from there on are scored."""

    ids: list[int]
    start: int


async def tokens(index: int, given: Conversation | Continuation, engine: Engine) -> Tokens:
    """The input in the engine's tokens. Raises Invalid, naming the input, if prompt and answer cannot be told apart."""
    param = f"input[{index}]"
    if isinstance(given, Conversation):
        found = await _turns(param, given, engine)
    else:
        found = await _continuation(param, given, engine)
    if not found.start:
        raise Invalid(f"{param} has an empty prompt: an answer's first token needs one to depend on", param=param)
    if found.start == len(found.ids):
        raise Invalid(f"{param} has an answer without a token", param=param)
    return found


async def _turns(param: str, given: Conversation, engine: Engine) -> Tokens:
    """The template of the engine, once up to the answer and once with it."""
    *before, last = given.messages
    if last.role != "assistant":
        raise Invalid(f"{param}.messages must end with the assistant's answer", param=f"{param}.messages")
    prompt = await engine.rendered(before, answer_follows=True)
    whole = await engine.rendered(given.messages, answer_follows=False)
    asked, read = await engine.text(prompt), await engine.text(whole)
    if not read.startswith(asked):
        said = f"{param}: the {engine.role}'s template renders the prompt differently once it is answered"
        raise Invalid(f"{said}; send prompt and response as token ids", param=param)
    return await _cut(param, prompt, whole, read.removeprefix(asked), engine)


async def _continuation(param: str, given: Continuation, engine: Engine) -> Tokens:
    if isinstance(given.prompt, str) and isinstance(given.response, str):
        return await _texts(param, given.prompt, given.response, engine)
    if isinstance(given.prompt, str) or isinstance(given.response, str):
        raise Invalid(f"{param}: prompt and response must both be text or both be token ids", param=param)
    return Tokens([*given.prompt, *given.response], len(given.prompt))


async def _texts(param: str, prompt: str, response: str, engine: Engine) -> Tokens:
    before = await engine.tokens(prompt, special=True)
    whole = await engine.tokens(prompt + response, special=True)
    return await _cut(param, before, whole, response, engine)


async def _cut(param: str, before: list[int], whole: list[int], answer: str, engine: Engine) -> Tokens:
    """The answer's ids after exactly the prompt's: those of the whole where the prompt's stay as they are in it, else
    those the answer has inside another text, if that reads the same. The prompt never moves into the answer."""
    if whole[: len(before)] == before:
        return Tokens(whole, len(before))
    read = await engine.text(whole)
    for anchor in ANCHORS:
        head = await engine.tokens(anchor, special=False)
        joint = await engine.tokens(anchor + answer, special=False)
        ids = [*before, *joint[len(head) :]]
        if joint[: len(head)] == head and await engine.text(ids) == read:
            return Tokens(ids, len(before))
    said = f"{param}: the tokenizer merges the prompt's end with the answer's beginning"
    raise Invalid(f"{said}; send both as token ids", param=param)
