"""Rewards as data: what scores an answer, what is asked of it, what comes back. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Data: parsed once at the edge, never changed, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DensityRatio(Frozen):
    """log π_strong(y | x) − log π_weak(y | x): what the strong model learned over the weak one (2411.02481)."""

    type: Literal["density_ratio"] = "density_ratio"
    strong: str = Field(min_length=1, max_length=256, description="Model id.")
    weak: str = Field(min_length=1, max_length=256, description="Model id.")

    def models(self) -> dict[str, str]:
        """The model ids that must be answered for, by the field of the request that names each."""
        return {"model.strong": self.strong, "model.weak": self.weak}


#: The union is the registry: a reward is added by one class with its `type`, and its file in `reward/models/`.
AnyReward = DensityRatio


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(Frozen):
    """Messages, the last of them the assistant's answer that is scored; rendered by the strong model's template."""

    messages: list[Message] = Field(min_length=2, max_length=1024)


class Continuation(Frozen):
    """A prompt and its answer, both as text or both as token ids."""

    prompt: str | list[Annotated[int, Field(ge=0)]]
    response: str | list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


Aggregation = Literal["sum", "mean"]
Part = Literal["token_scores", "logprobs"]


class ScoreRequest(Frozen):
    """The body of `POST /v1/rewards`."""

    model: AnyReward = Field(description="The reward that scores.")
    input: list[Conversation | Continuation] = Field(min_length=1, max_length=256)
    aggregation: Aggregation = Field("sum", description="Over the answer's tokens, in nats.")
    include: list[Part] = Field([], description="What each score comes with, token by token.")


class Score(Frozen):
    """One input's score; the per-token lists have `num_scored_tokens` entries."""

    object: Literal["reward"] = "reward"
    index: int
    score: float
    num_scored_tokens: int
    strong_logprob: float = Field(description="Sum over the answer, in nats.")
    weak_logprob: float
    tokens: list[str] | None = Field(None, description="The answer's tokens as text.")
    token_scores: list[float] | None = Field(None, description="strong − weak, token by token.")
    strong_logprobs: list[float] | None = None
    weak_logprobs: list[float] | None = None


class Usage(Frozen):
    """Tokens that went through the models, each counted once."""

    prompt_tokens: int
    total_tokens: int


class ScoreList(Frozen):
    """What `POST /v1/rewards` answers."""

    object: Literal["list"] = "list"
    model: AnyReward
    data: list[Score]
    usage: Usage


class Endpoint(Frozen):
    """Where a model answers: an engine's address on loopback and the model's name inside it."""

    url: str
    name: str
    key: str = Field("", repr=False, description="What the engine asks its callers for; empty if nothing.")

    def headers(self) -> dict[str, str]:
        """What to send with every request to it."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


class ScoreOrder(Frozen):
    """What the scoring process is given: the request, and where each model id it names can be asked."""

    request: ScoreRequest
    endpoints: dict[str, Endpoint]
