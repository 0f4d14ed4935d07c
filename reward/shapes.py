"""The shapes in which others ask for scores, and how each becomes ours and back.

vLLM's `/score`, `/rerank` and `/classify` (0.32), OpenRLHF's `/get_reward`, OpenAI's `graders/run` with `score_model`.
A pair of texts is scored as two turns where the model has a template, else as one text after the other.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from reward.errors import Invalid
from reward.inputs import AnyInput, Continuation, Conversation, Exchange, Message
from reward.spec import INPUTS_PER_REQUEST, Score, ScoreList, ScoreRequest

Texts = str | list[str]
PLACE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")


class Shape(BaseModel):
    """A body of somebody else's: what we do not know of it is passed over, as they do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field(min_length=1, description="A stored reward model: id, name or name@version.")

    def inputs(self) -> list[AnyInput]:
        """What is to be scored."""
        raise NotImplementedError

    def asked(self) -> ScoreRequest:
        """The request in our shape. Raises Invalid where there is nothing, or too much, to score."""
        given = self.inputs()
        if not 0 < len(given) <= INPUTS_PER_REQUEST:
            raise Invalid(f"between 1 and {INPUTS_PER_REQUEST} answers are scored at once, not {len(given)}")
        return ScoreRequest(model=self.model, input=given)


class ScoreShape(Shape):
    """vLLM's `/score`: one query for all documents, or one for each."""

    queries: Texts = Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))
    documents: Texts = Field(validation_alias=AliasChoices("documents", "items", "text_2", "data_2"))

    def inputs(self) -> list[AnyInput]:
        """Each document after its query."""
        queries, documents = _listed(self.queries), _listed(self.documents)
        if len(queries) == 1:
            queries = queries * len(documents)
        if len(queries) != len(documents):
            raise Invalid(f"{len(queries)} queries for {len(documents)} documents", param="queries")
        return [_exchange(query, text) for query, text in zip(queries, documents, strict=True)]

    def answer(self, scored: ScoreList) -> dict[str, Any]:
        """In vLLM's shape."""
        rows = [{"index": row.index, "object": "score", "score": row.score} for row in scored.data]
        return {"id": _id("score"), "object": "list", "model": self.model, "data": rows, "usage": _usage(scored)}


class RerankShape(Shape):
    """vLLM's, Cohere's and Jina's `/rerank`."""

    query: str
    documents: list[str | dict[str, str]]
    top_n: int = Field(0, ge=0, description="0: all.")

    def inputs(self) -> list[AnyInput]:
        """Each document after the query."""
        return [_exchange(self.query, text) for text in self._texts()]

    def answer(self, scored: ScoreList) -> dict[str, Any]:
        """Best first; a tie keeps the order it was asked in."""
        texts, best = self._texts(), sorted(scored.data, key=lambda row: -row.score)
        rows = [
            {"index": row.index, "document": {"text": texts[row.index]}, "relevance_score": row.score}
            for row in best[: self.top_n or None]
        ]
        return {"id": _id("rerank"), "model": self.model, "usage": _usage(scored), "results": rows}

    def _texts(self) -> list[str]:
        return [text if isinstance(text, str) else text.get("text", "") for text in self.documents]


class ClassifyShape(Shape):
    """vLLM's `/classify`, as verl asks it: a conversation, or whole texts with nothing before them."""

    input: Texts | None = None
    messages: list[Message] | None = None

    def inputs(self) -> list[AnyInput]:
        """The conversation; or each text, of which every token is scored that has one before it."""
        if self.messages is not None:
            if len(self.messages) < 2:
                raise Invalid("messages must hold a question and the assistant's answer", param="messages")
            return [Conversation(messages=self.messages)]
        if self.input is None:
            raise Invalid("input or messages is required", param="input")
        return [_continuation("", text) for text in _listed(self.input)]

    def answer(self, scored: ScoreList) -> dict[str, Any]:
        """One class, whose `probability` is the score as it is (vLLM's with `use_activation: false`)."""
        rows = [{"index": row.index, "label": "reward", "probs": [row.score], "num_classes": 1} for row in scored.data]
        return {"id": _id("classify"), "object": "list", "model": self.model, "data": rows, "usage": _usage(scored)}


class GetRewardShape(Shape):
    """OpenRLHF's remote reward: whole texts, and the prompts they begin with; the model comes in the URL."""

    model: str = Field("", description="Named in the URL.")
    query: list[str]
    prompts: list[str] | None = None
    labels: list[str | None] | None = None

    def inputs(self) -> list[AnyInput]:
        """What follows each prompt, as it stands: OpenRLHF has applied the template already."""
        count = len(self.query)
        prompts, labels = self.prompts or [""] * count, self.labels or [None] * count
        if len(prompts) != count or len(labels) != count:
            raise Invalid(f"{count} texts, {len(prompts)} prompts, {len(labels)} labels", param="query")
        return [self._input(k, prompts[k], labels[k]) for k in range(count)]

    def _input(self, index: int, prompt: str, label: str | None) -> AnyInput:
        text = self.query[index]
        if not text.startswith(prompt):
            raise Invalid(f"query[{index}] does not begin with its prompt", param=f"query[{index}]")
        return _continuation(prompt, text.removeprefix(prompt), label or None)

    def answer(self, scored: ScoreList) -> dict[str, Any]:
        """In OpenRLHF's shape; what a composite is made of goes into `extra_logs`."""
        scores = [row.score for row in scored.data]
        names = sorted({name for row in scored.data for name in row.parts or {}})
        logs = {name: [(row.parts or {}).get(name, 0.0) for row in scored.data] for name in names}
        return {"rewards": scores, "scores": scores, "extra_logs": logs}


class ScoreModelGrader(BaseModel):
    """OpenAI's grader of that name; `model` is a stored reward model, and nothing is sampled."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["score_model"]
    name: str
    model: str = Field(min_length=1)
    input: list[dict[str, Any]] = Field(min_length=1)
    range: tuple[float, float] | None = None


class GraderRun(BaseModel):
    """The body of `POST /v1/fine_tuning/alpha/graders/run`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    grader: ScoreModelGrader
    model_sample: str
    item: dict[str, Any] = Field({}, description="Fills {{item.…}} in the grader's input.")

    def asked(self) -> ScoreRequest:
        """The grader's messages with their places filled; without an answer among them the sample is the answer."""
        values = {"sample": {"output_text": self.model_sample}, "item": self.item}
        turns = [self._turn(index, turn, values) for index, turn in enumerate(self.grader.input)]
        if turns[-1].role != "assistant":
            turns.append(Message(role="assistant", content=self.model_sample))
        if len(turns) < 2:
            raise Invalid("grader.input must hold what the sample answers", param="grader.input")
        reference = self.item.get("reference_answer", self.item.get("reference"))
        named = str(reference) if reference is not None else None
        return ScoreRequest(model=self.grader.model, input=[Conversation(messages=turns, reference=named)])

    def answer(self, scored: ScoreList, seconds: float) -> dict[str, Any]:
        """In OpenAI's shape; `reward` is the score, clipped to `range` where one is given."""
        [row] = scored.data
        low, high = self.grader.range or (float("-inf"), float("inf"))
        reward = max(low, min(high, row.score))
        return {
            "reward": reward,
            "sub_rewards": row.parts or {},
            "metadata": _metadata(self.grader, row, scored.usage.total_tokens, seconds),
            "model_grader_token_usage_per_model": {self.grader.model: _usage(scored)},
        }

    def _turn(self, index: int, turn: Mapping[str, Any], values: Mapping[str, Any]) -> Message:
        param = f"grader.input[{index}]"
        role = {"developer": "system"}.get(turn.get("role", ""), turn.get("role", ""))
        if role not in ("system", "user", "assistant"):
            raise Invalid(f"{param}.role must be system, developer, user or assistant", param=f"{param}.role")
        return Message(role=role, content=_filled(_content(turn.get("content"), param), values, param))


ERRORS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip


DETAILS = (
    "model_grader_server_error_details", "python_grader_runtime_error_details", "python_grader_server_error_type",
)  # fmt: skip


def _metadata(grader: ScoreModelGrader, row: Score, tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "errors": dict.fromkeys(ERRORS, False) | dict.fromkeys(DETAILS),
        "execution_time": seconds,
        "name": grader.name,
        "sampled_model_name": None,
        "scores": {grader.name: row.score},
        "token_usage": tokens,
        "type": grader.type,
    }


def _content(content: Any, param: str) -> str:
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    known = [text for text in texts if isinstance(text, str)]
    if len(known) < len(texts):
        raise Invalid(f"{param}.content must be text", param=f"{param}.content")
    return "".join(known)


def _filled(text: str, values: Mapping[str, Any], param: str) -> str:
    def value(found: re.Match[str]) -> str:
        at: Any = values
        for step in found[1].split("."):
            if not isinstance(at, Mapping) or step not in at:
                raise Invalid(f"{param} names {found[0]}, which the run does not have", param=param)
            at = at[step]
        return at if isinstance(at, str) else json.dumps(at)

    return PLACE.sub(value, text)


def _listed(texts: Texts) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _exchange(query: str, answer: str) -> Exchange:
    if not answer:
        raise Invalid("a document is empty: there is nothing to score", param="documents")
    return Exchange(query=query, answer=answer)


def _continuation(prompt: str, response: str, reference: str | None = None) -> Continuation:
    if not response:
        raise Invalid("an answer is empty: there is nothing to score", param="input")
    return Continuation(prompt=prompt, response=response, reference=reference)


def _usage(scored: ScoreList) -> dict[str, int]:
    return scored.usage.model_dump() | {"completion_tokens": 0}


def _id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"
