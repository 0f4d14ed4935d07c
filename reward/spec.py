"""Scoring as data: what is asked of a reward and what comes back. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward.endpoints import Endpoint, Facts
from reward.frozen import Frozen
from reward.inputs import AnyInput, Continuation, Conversation, Exchange, Masked, Message
from reward.models import Aggregation, AnyNamedReward, AnyReward, Composite, DensityRatio, Implicit
from reward.normalizing import Normalization

__all__ = [
    "Aggregation", "AnyInput", "AnyNamedReward", "AnyReward", "CompareRequest", "Comparison", "ComparisonList",
    "Composite", "Continuation", "Conversation", "DensityRatio", "Endpoint", "Exchange", "Facts", "Frozen",
    "Implicit", "InputPair", "Masked", "Message", "ModelProvenance", "Normalization", "Part", "Provenance", "Score",
    "ScoreList", "ScoreOrder", "ScoreRequest", "Usage",
]  # fmt: skip

Part = Literal["token_scores", "logprobs", "cumulative_scores", "step_scores"]
INPUTS_PER_REQUEST = 256


class Options(Frozen):
    """How a request wants its scores; the same for scores and comparisons."""

    model: AnyNamedReward = Field(description="The reward that scores, or the id or name of a stored one.")
    aggregation: Aggregation | None = Field(
        None, description="Over the answer's tokens, in nats; None: the reward's own."
    )
    truncation: Literal["error", "left"] = Field(
        "error", description="`left` drops the prompt's beginning where an input is too long, and says so."
    )
    max_tokens: int | None = Field(None, ge=2, description="Most tokens of an input; the engines' context if absent.")


class ScoreRequest(Options):
    """The body of `POST /v1/rewards`."""

    input: list[AnyInput] = Field(min_length=1, max_length=INPUTS_PER_REQUEST)
    group_ids: list[int] | None = Field(None, description="One per input: answers to one prompt, say.")
    normalization: Normalization = Field("none", description="Over the request, or each group; raw_score stays.")
    include: list[Part] = Field([], description="What each score comes with, token by token.")

    @model_validator(mode="after")
    def _a_group_for_each(self) -> ScoreRequest:
        if self.group_ids is not None and len(self.group_ids) != len(self.input):
            raise ValueError(f"group_ids has {len(self.group_ids)} entries for {len(self.input)} inputs")
        return self


class Score(Frozen):
    """One input's score; the per-token lists have `num_scored_tokens` entries."""

    object: Literal["reward"] = "reward"
    index: int
    score: float
    raw_score: float | None = Field(None, description="Before the normalisation, where one was asked for.")
    num_scored_tokens: int = Field(0, description="0: the reward reads no tokens.")
    strong_logprob: float | None = Field(None, description="Sum over the scored tokens, in nats.")
    weak_logprob: float | None = None
    tokens: list[str] | None = Field(None, description="The scored tokens as text.")
    token_scores: list[float] | None = Field(None, description="What each token is worth.")
    cumulative_scores: list[float] | None = Field(None, description="q_t: the sum up to each token.")
    step_scores: list[float] | None = Field(None, description="What each step is worth (`implicit`).")
    strong_logprobs: list[float] | None = None
    weak_logprobs: list[float] | None = None
    parts: dict[str, float] | None = Field(None, description="Of a composite: each component's share.")
    domain: str | None = Field(None, description="Where a router sent the input.")
    truncated: bool | None = Field(None, description="True: the prompt's beginning was dropped.")


class Usage(Frozen):
    """Tokens that went through the models, each counted once."""

    prompt_tokens: int
    total_tokens: int


class ModelProvenance(Frozen):
    """Exactly which model took part, in which engine."""

    id: str
    digest: str | None = Field(None, description="SHA-256 of base model and adapter.")
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    engine: str | None = None
    dtype: str | None = None


class Provenance(Frozen):
    """What made the scores."""

    reward_model: str | None = Field(None, description="Id of the stored reward model.")
    reward_sha256: str = Field(description="Of the reward's settings as canonical JSON.")
    models: dict[str, ModelProvenance] = Field({}, description="By the reward's field that names the model.")


class ScoreList(Frozen):
    """What `POST /v1/rewards` answers."""

    object: Literal["list"] = "list"
    model: AnyNamedReward
    data: list[Score]
    usage: Usage
    provenance: Provenance
    warnings: list[str] = Field([], description="What is odd, in sentences.")
    routed: dict[str, int] | None = Field(None, description="Inputs by domain; `unparsed` went to the default.")


class InputPair(Frozen):
    """Two answers to compare."""

    first: AnyInput
    second: AnyInput


class CompareRequest(Options):
    """The body of `POST /v1/rewards/compare`."""

    pairs: list[InputPair] = Field(min_length=1, max_length=INPUTS_PER_REQUEST // 2)

    def as_scores(self) -> ScoreRequest:
        """Both answers of every pair, one after the other, each pair a group."""
        both = [side for pair in self.pairs for side in (pair.first, pair.second)]
        options = {name: getattr(self, name) for name in Options.model_fields}
        return ScoreRequest(**options, input=both, group_ids=[k // 2 for k in range(len(both))])


class Comparison(Frozen):
    """One pair: σ(first − second), the Bradley-Terry probability that the first is the better answer."""

    object: Literal["reward.comparison"] = "reward.comparison"
    index: int
    probability: float
    margin: float
    first_score: float
    second_score: float


class ComparisonList(Frozen):
    """What `POST /v1/rewards/compare` answers."""

    object: Literal["list"] = "list"
    model: AnyNamedReward
    data: list[Comparison]
    usage: Usage
    provenance: Provenance
    warnings: list[str] = Field([], description="What is odd, in sentences.")


class ScoreOrder(Frozen):
    """What the scoring process is given: the request, and where each model and endpoint it names can be asked."""

    request: ScoreRequest
    endpoints: dict[str, Endpoint] = Field({}, description="By model id.")
    services: dict[str, Endpoint] = Field({}, description="The operator's endpoints, by name.")
