"""Where log-probs come from: a vLLM engine over HTTP, token ids in, one number per token out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from reward.errors import Invalid, Unavailable
from reward.spec import Endpoint, Message


@dataclass(frozen=True)
class Scored:
    """A sequence as one model sees it; entry k of both lists is about token k + 1 (the first has no context)."""

    logprobs: list[float]  #: nats
    texts: list[str]  #: each token decoded alone


@dataclass(frozen=True)
class Engine:
    """One model inside one engine; `role` is how sentences call it."""

    role: str
    endpoint: Endpoint
    client: httpx.AsyncClient

    async def score(self, ids: Sequence[int]) -> Scored:
        """log π(id_k | ids before k) for every token but the first; temperature 1, no truncation of the vocabulary.

        Raises Invalid if the engine refuses the ids, Unavailable if it does not answer.
        """
        asked = {"prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = await self._post("/v1/completions", asked)
        positions = answer["choices"][0]["prompt_logprobs"]
        # by id: vLLM may list likelier tokens beside the actual one, in any order
        entries = [position[str(token)] for position, token in zip(positions[1:], ids[1:], strict=True)]
        return Scored([entry["logprob"] for entry in entries], [entry["decoded_token"] or "" for entry in entries])

    async def context(self) -> int:
        """Tokens that fit into one request, the one it generates included."""
        answer = await self._post("/tokenize", {"prompt": ""})
        return int(answer["max_model_len"])

    async def tokens(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text; `special` adds what the tokenizer puts around a whole text (a BOS, mostly)."""
        answer = await self._post("/tokenize", {"prompt": text, "add_special_tokens": special})
        return list(answer["tokens"])

    async def rendered(self, messages: Sequence[Message], *, answer_follows: bool) -> list[int]:
        """Ids of a conversation in the model's template, opened for an answer or closed after one."""
        turns = [message.model_dump() for message in messages]
        answer = await self._post("/tokenize", {"messages": turns, "add_generation_prompt": answer_follows})
        return list(answer["tokens"])

    async def text(self, ids: Sequence[int]) -> str:
        """The ids as one text, special tokens included."""
        answer = await self._post("/detokenize", {"tokens": list(ids)})
        return str(answer["prompt"])

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self.client.post(
                f"{self.endpoint.url}{route}",
                json=body | {"model": self.endpoint.name},
                headers=self.endpoint.headers(),
            )
        except httpx.TransportError as error:
            raise Unavailable(f"the engine of the {self.role} does not answer") from error
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code == httpx.codes.NOT_FOUND:
            raise Unavailable(f"the engine of the {self.role} failed (status {answer.status_code})")
        parsed: dict[str, Any] = answer.json()
        if not answer.is_success:
            raise Invalid(f"the engine of the {self.role} refused: {parsed['error']['message']}")
        return parsed
