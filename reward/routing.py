"""Which domain a question belongs to: by words in it, or asked of a served model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from reward.errors import Invalid
from reward.frozen import Frozen
from reward.inputs import AnyInput, Message, question_of
from reward.models.base import Run
from reward.together import together

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
DEFAULT_PROMPT = (
    "Classify the user's question into exactly one of these domains: {domains}.\n"
    "Answer with the domain's name between [[ and ]], and with nothing else.\n\nQuestion:\n{question}"
)


class Keywords(Frozen):
    """The first domain, in the order given, one of whose words stands in the user's last turn."""

    type: Literal["keywords"] = "keywords"
    rules: dict[Name, list[Annotated[str, Field(min_length=1)]]] = Field(min_length=1)

    def models(self) -> dict[str, str]:
        """None."""
        return {}

    async def names(self, questions: Sequence[str], known: Sequence[str], _: Run) -> list[str | None]:
        """Each question's domain, None where no word is found."""
        return [self._name(question, known) for question in questions]

    def _name(self, question: str, known: Sequence[str]) -> str | None:
        for name, words in self.rules.items():
            alternatives = "|".join(map(re.escape, words))
            if name in known and re.search(rf"(?<!\w)(?:{alternatives})(?!\w)", question, re.IGNORECASE):
                return name
        return None


class Classifier(Frozen):
    """A served model's greedy answer, a domain's name between two markers (2411.02481)."""

    type: Literal["model"] = "model"
    model: str = Field(min_length=1, max_length=256, description="Model id.")
    prompt: str = Field(DEFAULT_PROMPT, description="Asked with {question} and {domains} filled in.")
    start: str = Field("[[", min_length=1, max_length=16)
    end: str = Field("]]", min_length=1, max_length=16)
    max_tokens: int = Field(16, ge=1, le=512)

    @field_validator("prompt")
    @classmethod
    def _asks(cls, prompt: str) -> str:
        if "{question}" not in prompt:
            raise ValueError("prompt must contain {question}: a router that is not asked anything routes nothing")
        return prompt

    def models(self) -> dict[str, str]:
        """The one that is asked."""
        return {"router.model": self.model}

    async def names(self, questions: Sequence[str], known: Sequence[str], run: Run) -> list[str | None]:
        """Each question's domain, None where the answer names none of `known`. One question is asked once."""
        engine = run.engine("router", "model.router.model", self.model)
        once = list(dict.fromkeys(questions))
        asked = [self.prompt.replace("{domains}", ", ".join(known)).replace("{question}", text) for text in once]
        turns = [[Message(role="user", content=text)] for text in asked]
        said = await together([engine.said(turn, max_tokens=self.max_tokens) for turn in turns])
        found = {question: self._named(answer, known) for question, answer in zip(once, said, strict=True)}
        return [found[question] for question in questions]

    def _named(self, answer: str, known: Sequence[str]) -> str | None:
        _, opened, rest = answer.partition(self.start)
        name, closed, _ = rest.partition(self.end)
        name = name.strip().lower()
        return name if opened and closed and name in known else None


AnyRouter = Annotated[Keywords | Classifier, Field(discriminator="type")]


async def routed(
    inputs: Sequence[AnyInput], router: AnyRouter | None, known: Sequence[str], default: str, run: Run
) -> list[str]:
    """Each input's domain; what cannot be told goes to `default` and is counted as `unparsed`."""
    if router is None:
        return [default] * len(inputs)
    questions = [question_of(given) for given in inputs]
    for index, question in enumerate(questions):
        if question is None:
            raise Invalid(f"input[{index}] is token ids; a router reads text", param=f"input[{index}]")
    found = await router.names([question or "" for question in questions], known, run)
    run.routed.update(name or default for name in found)
    if missed := found.count(None):
        run.routed["unparsed"] += missed
    return [name or default for name in found]
