"""What every reward shares: the models it names, and how it scores a list of inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import httpx

from reward.endpoints import Endpoint
from reward.engine import Engine
from reward.errors import Invalid
from reward.frozen import Frozen
from reward.inputs import AnyInput, answer_of, prompt_of

Aggregation = Literal["sum", "mean", "per_token_clipped", "min_step"]


@dataclass(frozen=True)
class ByToken:
    """A score's tokens; all lists have one entry for each scored token, but `steps`, which has one for each step."""

    scores: list[float]
    strong: list[float]  #: nats
    weak: list[float]
    prompt: int  #: tokens read and not scored
    texts: list[str] | None = None
    steps: list[float] | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Worth:
    """What a reward says of one input."""

    score: float
    by_token: ByToken | None = None
    #: of a composite: each component's weighted share, by name
    parts: Mapping[str, float] = field(default_factory=dict)
    domain: str | None = None
    #: log-probs that belong to `score` where there are none by token: strong, weak
    sums: tuple[float, float] | None = None
    count: int = 0  #: scored tokens
    prompt: int = 0  #: tokens read and not scored


@dataclass(frozen=True)
class Run:
    """What scoring one list of inputs may use, and where it says what is odd."""

    engine: Callable[[str, str, str], Engine]  #: (role, field of the request, model id)
    services: Mapping[str, Endpoint]
    client: httpx.AsyncClient
    aggregation: Aggregation | None = None  #: the caller's; None: the reward's own
    texts: bool = False  #: whether the tokens' texts are wanted
    truncate: bool = False
    max_tokens: int | None = None
    groups: Sequence[int] | None = None  #: one per input; None: all in one
    warnings: list[str] = field(default_factory=list)
    routed: Counter[str] = field(default_factory=Counter)  #: inputs by domain, and `unparsed`

    def warn(self, sentence: str) -> None:
        """Tell the caller, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def service(self, name: str, param: str) -> Endpoint:
        """Where an operator's endpoint answers. Raises Invalid."""
        if name not in self.services:
            raise Invalid(f"there is no reward endpoint {name!r}; its operator names them", param=param)
        return self.services[name]


class Reward(Frozen, ABC):
    """A reward: its fields are its settings, `worth` is its formula."""

    type: str

    def models(self) -> dict[str, str]:
        """The model ids that must be answered for, by the field that names each."""
        return {}

    def services(self) -> dict[str, str]:
        """The operator's endpoints that it asks, by the field that names each."""
        return {}

    @abstractmethod
    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input, in order; nothing is scored unless all inputs can be.

        Raises Invalid naming the input that cannot be scored, Unavailable if an engine does not answer.
        """


class TextReward(Reward, ABC):
    """A reward that reads the answer's text and asks no engine."""

    @abstractmethod
    def of(self, answer: str) -> float:
        """The score of one answer, which is not empty."""

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Score every input by its answer's text."""
        refuse_aggregation(self.type, run)
        answers = [texts_of(given, self.type, f"input[{k}]")[1] for k, given in enumerate(inputs)]
        return [Worth(self.of(answer)) for answer in answers]


def texts_of(given: AnyInput, type_: str, param: str) -> tuple[str, str]:
    """Prompt and answer as texts. Raises Invalid for token ids and for an empty answer."""
    prompt, answer = prompt_of(given), answer_of(given)
    if prompt is None or answer is None:
        raise Invalid(f"{param} is token ids; {type_} reads text", param=param)
    if not answer:
        raise Invalid(f"{param} has an empty answer", param=param)
    return prompt, answer


def refuse_aggregation(type_: str, run: Run) -> None:
    """Raises Invalid where tokens are to be aggregated that the reward does not have."""
    if run.aggregation is not None:
        raise Invalid(f"{type_} has no scores by token: leave out aggregation", param="aggregation")
