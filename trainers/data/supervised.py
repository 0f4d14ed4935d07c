"""Files to imitate: OpenAI's conversations, TRL's prompts with completions, and bare texts. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainers.data import fields
from trainers.data.fields import TOKEN_WEIGHTS, WEIGHT, Message, Part, is_ids
from trainers.data.lines import Row, Wrong
from trainers.data.marks import PLAIN, Marks, Said, marks, said, spans

NOUN = "conversation"
SHAPE = 'a line is {"messages"}, {"prompt", "completion"} or {"text"}'


@dataclass(frozen=True)
class Conversation:
    """Messages, some of them the assistant's and to be learned."""

    line: int
    messages: tuple[Message, ...]
    marks: tuple[Marks | None, ...]  #: of each message; None where there is nothing to learn
    tools: tuple[Message, ...] | None = None
    columns: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A prompt with the one answer to learn, both texts or both token ids."""

    line: int
    prompt: Part
    answer: Said
    columns: Mapping[str, float] = field(default_factory=dict)
    tools: None = None

    @property
    def answers(self) -> tuple[Said]:
        """The one answer."""
        return (self.answer,)


@dataclass(frozen=True)
class Text:
    """A text to learn from its second token on."""

    line: int
    text: str
    marks: Marks = PLAIN
    columns: Mapping[str, float] = field(default_factory=dict)


Supervised = Conversation | Completion | Text


def parse(number: int, row: Row) -> Supervised:
    """A line's conversation or text; Wrong names the field at fault."""
    columns = fields.columns(row)
    if row.get("messages") is not None:
        found = fields.messages(row["messages"], "messages")
        weights = [_marks(message, f"messages[{place}]") for place, message in enumerate(found)]
        return _conversation(number, found, weights, row, columns)
    if "prompt" in row or "completion" in row:
        return _completion(number, row, columns)
    if row.get("text") is None:
        raise Wrong(f"messages is missing: {SHAPE}")
    content = fields.text(row["text"], "text")
    return Text(number, content, Marks(spans=spans(row.get(TOKEN_WEIGHTS), TOKEN_WEIGHTS, content)), columns)


def _conversation(
    number: int, found: tuple[Message, ...], weights: list[Marks | None], row: Row, columns: Mapping[str, float]
) -> Conversation:
    if not any(message["role"] == "assistant" for message in found):
        raise Wrong("messages hold no answer of the assistant")
    if weights[0] is not None and weights[0].weight:
        raise Wrong("messages[0] is the assistant's, with nothing before it to answer: give it weight 0")
    return Conversation(number, tuple(map(fields.bare, found)), tuple(weights), fields.tools(row), columns)


def _marks(message: Message, name: str, aside: Any = None, beside: str = "") -> Marks | None:
    if message["role"] == "assistant":
        return marks(message, name, aside, beside)
    for key in (WEIGHT, TOKEN_WEIGHTS):
        if message.get(key) is not None:
            raise Wrong(f"{name}.{key} is for messages of the assistant only")
    return None


def _completion(number: int, row: Row, columns: Mapping[str, float]) -> Supervised:
    for name in ("prompt", "completion"):
        if row.get(name) is None:
            raise Wrong(f"{name} is missing: {SHAPE}")
    asked = fields.prompt(row)
    if isinstance(asked, str) or is_ids(asked):
        return Completion(number, asked, said(row, "completion", asked), columns)
    beside = f"completion_{TOKEN_WEIGHTS}"
    told = fields.messages(row["completion"], "completion")
    answers = [message for message in told if message["role"] == "assistant"]
    if not answers:
        raise Wrong("completion must hold a message of the assistant")
    if row.get(beside) is not None and len(answers) > 1:
        raise Wrong(f"{beside} needs a completion with one message of the assistant; put them into the messages")
    weights: list[Marks | None] = [None] * len(asked)
    weights += [_marks(message, f"completion[{k}]", row.get(beside), beside) for k, message in enumerate(told)]
    return _conversation(number, (*asked, *told), weights, row, columns)
