"""What a density ratio's models are told before they score: criteria and an example per domain (2411.02481)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from pydantic import Field

from reward.errors import Invalid
from reward.frozen import Frozen
from reward.inputs import AnyInput, Conversation, Exchange, Message

INSTRUCTION = (
    "Below is a question with a good and a bad answer, and why. Answer the last question as well as the good one."
)
#: the control tokens of common templates, for models of which nobody says which are theirs
CONTROL = re.compile(r"<\|[^<>|\s]{1,48}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>")
#: between a control token's first character and the rest: reads the same, is not the token
JOINER = "\u2060"


class Exemplar(Frozen):
    """One example in the prompt."""

    user: str = Field(min_length=1)
    good: str = Field(min_length=1)
    bad: str = Field(min_length=1)
    explanation: str = Field(min_length=1)


class Domain(Frozen):
    """What is said in one domain; nothing at all is allowed."""

    criteria: str = Field("", description="Becomes the system turn, or the beginning of the one that is there.")
    exemplars: list[Exemplar] = Field([], max_length=64, description="One of them goes into the last user turn.")


def customised(given: AnyInput, domain: Domain, *, seed: int, control: Iterable[str], param: str) -> AnyInput:
    """The input as the models read it: g(x).

    The exemplar depends on the seed and the prompt alone, so all answers to one prompt share it, in any order.
    Raises Invalid for inputs that are no conversation.
    """
    if not domain.criteria and not domain.exemplars:
        return given
    if isinstance(given, Exchange):
        said = [Message(role="user", content=given.query), Message(role="assistant", content=given.answer)]
        given = Conversation(messages=said, reference=given.reference)
    if not isinstance(given, Conversation):
        raise Invalid(f"{param} is no conversation; domains with criteria or exemplars need messages", param=param)
    *before, answer = given.messages
    prompt = _with_criteria(before, escaped(domain.criteria, control))
    if domain.exemplars:
        chosen = domain.exemplars[_place(before, seed, len(domain.exemplars))]
        prompt = _with_exemplar(prompt, escaped(_block(chosen), control), param)
    return given.model_copy(update={"messages": [*prompt, answer]})


def escaped(text: str, control: Iterable[str]) -> str:
    """The text with an invisible joiner inside everything that a tokenizer would read as a control token."""
    for token in sorted({token for token in control if len(token) > 1}, key=len, reverse=True):
        text = text.replace(token, token[0] + JOINER + token[1:])
    return CONTROL.sub(lambda found: found[0][0] + JOINER + found[0][1:], text)


def _place(before: Sequence[Message], seed: int, count: int) -> int:
    text = "\0".join(f"{turn.role}\1{turn.content}" for turn in before)
    return int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode()).digest()[:8]) % count


def _with_criteria(before: Sequence[Message], criteria: str) -> list[Message]:
    if not criteria:
        return list(before)
    if before and before[0].role == "system":
        joined = f"{criteria}\n\n{before[0].content}"
        return [Message(role="system", content=joined), *before[1:]]
    return [Message(role="system", content=criteria), *before]


def _block(chosen: Exemplar) -> str:
    return (
        f"{INSTRUCTION}\n\nUser: {chosen.user}\nGood Assistant: {chosen.good}\n"
        f"Bad Assistant: {chosen.bad}\nExplanation: {chosen.explanation}\n\nUser: "
    )


def _with_exemplar(prompt: Sequence[Message], block: str, param: str) -> list[Message]:
    *earlier, last = prompt
    if last.role != "user":
        raise Invalid(f"{param}: exemplars need a user's turn before the answer", param=param)
    return [*earlier, Message(role="user", content=f"{block}{last.content}\nGood Assistant:")]
