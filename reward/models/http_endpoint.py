"""A reward model that somebody else serves, in OpenRLHF's shape or in that of vLLM's /score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from reward.endpoints import Endpoint
from reward.errors import Broken
from reward.inputs import AnyInput
from reward.models.base import Reward, Run, Worth, refuse_aggregation, texts_of
from reward.remote import asked, numbers


class HttpEndpoint(Reward):
    """What the endpoint says; it gets prompt and answer as texts, nothing of a template."""

    type: Literal["http"] = "http"
    endpoint: str = Field(min_length=1, max_length=64, description="Its name in PREFSERVE_REWARD_ENDPOINTS.")
    shape: Literal["openrlhf", "score"] = Field(
        description="`openrlhf`: {query, prompts, labels} → {rewards}; `score`: {text_1, text_2} → {data: [{score}]}."
    )
    model: str = Field("", max_length=256, description="Sent as `model`, where the endpoint has several.")

    def services(self) -> dict[str, str]:
        """The endpoint."""
        return {"endpoint": self.endpoint}

    async def worth(self, inputs: Sequence[AnyInput], run: Run) -> list[Worth]:
        """Ask for all inputs in one request."""
        refuse_aggregation(self.type, run)
        endpoint = run.service(self.endpoint, "model.endpoint")
        texts = [texts_of(given, self.type, f"input[{k}]") for k, given in enumerate(inputs)]
        told = await asked(run, endpoint, self._body(texts, [given.reference for given in inputs]))
        return [Worth(value) for value in numbers(self._scores(told, endpoint), len(inputs), endpoint)]

    def _body(self, texts: Sequence[tuple[str, str]], references: Sequence[str | None]) -> dict[str, Any]:
        prompts, answers = [prompt for prompt, _ in texts], [answer for _, answer in texts]
        named = {"model": self.model} if self.model else {}
        if self.shape == "score":
            return named | {"text_1": prompts, "text_2": answers}
        whole = [prompt + answer for prompt, answer in texts]
        return named | {"query": whole, "prompts": prompts, "labels": [text or "" for text in references]}

    def _scores(self, told: Any, endpoint: Endpoint) -> Any:
        try:
            if self.shape == "openrlhf":
                return told["rewards"]
            return [row["score"] for row in sorted(told["data"], key=lambda row: row["index"])]
        except (KeyError, TypeError) as error:
            raise Broken(f"the endpoint {endpoint.name} answered in another shape than {self.shape}") from error
