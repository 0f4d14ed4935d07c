"""What is scored: an answer to something, in one of four shapes, told apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from reward.frozen import Frozen

Id = Annotated[int, Field(ge=0, lt=2**31)]


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Referenced(Frozen):
    """What may come with every text."""

    reference: str | None = Field(None, description="The right answer, for rewards that compare with one.")


class Conversation(Referenced):
    """Messages, the last of them the assistant's answer that is scored; rendered by the strong model's template."""

    messages: list[Message] = Field(min_length=2, max_length=1024)


class Continuation(Referenced):
    """A prompt and its answer, both as text or both as token ids."""

    prompt: str | list[Id]
    response: str | list[Id] = Field(min_length=1)


class Exchange(Referenced):
    """A question and its answer: two turns where the model has a template, else one text after the other."""

    query: str
    answer: str = Field(min_length=1)


class Masked(Referenced):
    """Token ids and which of them are scored: a rollout of several turns, say, whose tools' words do not count."""

    token_ids: list[Id] = Field(min_length=2)
    response_mask: list[Literal[0, 1]] = Field(description="1 for each token that is scored; the first cannot be.")

    @model_validator(mode="after")
    def _fits(self) -> Masked:
        if len(self.response_mask) != len(self.token_ids):
            told = f"{len(self.response_mask)} entries for {len(self.token_ids)} token ids"
            raise ValueError(f"response_mask has {told}")
        if self.response_mask[0]:
            raise ValueError("response_mask begins with 1: the first token depends on nothing")
        if not any(self.response_mask):
            raise ValueError("response_mask has no 1: nothing is scored")
        return self


KEYS = {"messages": "messages", "query": "query", "token_ids": "token_ids"}
SHAPES: dict[Any, str] = {Conversation: "messages", Exchange: "query", Masked: "token_ids"}


def _shape(given: Any) -> str:
    if isinstance(given, Mapping):
        return next((tag for key, tag in KEYS.items() if key in given), "prompt")
    return SHAPES.get(type(given), "prompt")


AnyInput = Annotated[
    Annotated[Conversation, Tag("messages")]
    | Annotated[Continuation, Tag("prompt")]
    | Annotated[Exchange, Tag("query")]
    | Annotated[Masked, Tag("token_ids")],
    Discriminator(_shape),
]


def answer_of(given: AnyInput) -> str | None:
    """The text that is scored; None where it comes as token ids."""
    match given:
        case Conversation(messages=[*_, last]):
            return last.content
        case Continuation(response=str(response)):
            return response
        case Exchange(answer=answer):
            return answer
    return None


def prompt_of(given: AnyInput) -> str | None:
    """All that is said before the answer, turns joined by blank lines; None where it comes as token ids."""
    match given:
        case Conversation(messages=[*before, _]):
            return "\n\n".join(turn.content for turn in before)
        case Continuation(prompt=str(prompt)):
            return prompt
        case Exchange(query=query):
            return query
    return None


def question_of(given: AnyInput) -> str | None:
    """What the user said last; None where it comes as token ids."""
    if isinstance(given, Conversation):
        said = [turn.content for turn in given.messages[:-1] if turn.role == "user"]
        return said[-1] if said else ""
    return prompt_of(given)
