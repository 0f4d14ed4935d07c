"""Where log-probs come from: a vLLM engine over HTTP, token ids in, one number per token out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from reward.batches import Batches
from reward.cache import Cache
from reward.endpoints import Endpoint
from reward.errors import Broken, Invalid, Refusal, Unavailable
from reward.inputs import Message


@dataclass(frozen=True)
class Scored:
    """A sequence as one model sees it; entry k of both lists is about token k + 1 (the first has no context)."""

    logprobs: list[float]  #: nats
    texts: list[str]  #: each token decoded alone

    def __len__(self) -> int:
        return len(self.logprobs)


@dataclass
class Link:
    """One endpoint as this process knows it: its batches and what never changes of it."""

    endpoint: Endpoint
    client: httpx.AsyncClient
    cache: Cache[Scored] | None = None
    batches: Batches[Scored] = field(init=False)
    context: int | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        self.batches = Batches(self._score)

    async def _score(self, sequences: list[Sequence[int]]) -> list[Scored]:
        # as OpenAI's list of prompts; vLLM takes them apart and batches them with all others
        asked = {"prompt": [list(ids) for ids in sequences], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = await self.post("/v1/completions", asked)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
            listed = [choice["prompt_logprobs"] for choice in choices]
            return [_scored(positions, ids) for positions, ids in zip(listed, sequences, strict=True)]
        except (KeyError, TypeError, ValueError) as error:
            raise Broken("the engine gave no log-prob for each token") from error

    async def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the engine. Raises Invalid if it refuses, Unavailable if it does not answer."""
        asked = body | {"model": self.endpoint.name}
        return await self._parsed("POST", route, json=asked)

    async def get(self, route: str) -> dict[str, Any]:
        """As `post`, without a body."""
        return await self._parsed("GET", route)

    async def _parsed(self, method: str, route: str, **body: Any) -> dict[str, Any]:
        url = f"{self.endpoint.url}{route}"
        try:
            answer = await self.client.request(method, url, headers=self.endpoint.headers(), **body)
        except httpx.TransportError as error:
            raise Unavailable("the engine does not answer") from error
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code == httpx.codes.NOT_FOUND:
            raise Unavailable(f"the engine failed (status {answer.status_code})")
        try:
            parsed: dict[str, Any] = answer.json()
        except ValueError as error:
            raise Broken("the engine answered with something that is no JSON") from error
        if not answer.is_success:
            raise Invalid(f"the engine refused: {parsed['error']['message']}")
        return parsed


@dataclass(frozen=True)
class Engine:
    """One model inside one engine; `role` is how sentences call it."""

    role: str
    link: Link

    @property
    def has_template(self) -> bool:
        """Whether the model can render a conversation; assumed where nothing is known."""
        facts = self.link.endpoint.facts
        return facts is None or facts.chat_template_sha256 is not None

    async def score(self, ids: Sequence[int], *, cached: bool = False) -> Scored:
        """log π(id_k | ids before k) for every token but the first; temperature 1, no truncation of the vocabulary.

        `cached` looks first at what this model said of these ids before. Raises Invalid if the engine refuses the
        ids, Unavailable if it does not answer, Broken if an entry is no finite number.
        """
        facts, cache = self.link.endpoint.facts, self.link.cache
        if not cached or facts is None or cache is None:
            return await self._score(ids)
        if (known := cache.get(facts, ids)) is not None:
            return known
        cache.put(facts, ids, found := await self._score(ids))
        return found

    async def _score(self, ids: Sequence[int]) -> Scored:
        with self._named():
            found = await self.link.batches.ask(ids)
        for place, value in enumerate(found.logprobs, start=1):
            if not math.isfinite(value):
                raise Broken(f"the engine of the {self.role} gave {value} as log-prob of token {place} ({ids[place]})")
        return found

    async def context(self) -> int:
        """Tokens that fit into one request, the one it generates included."""
        if self.link.context is None:
            answer = await self._post("/tokenize", {"prompt": ""})
            self.link.context = int(answer["max_model_len"])
        return self.link.context

    async def version(self) -> str:
        """`vllm 0.32.0`."""
        if self.link.version is None:
            with self._named():
                answer = await self.link.get("/version")
            self.link.version = f"vllm {answer['version']}"
        return self.link.version

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

    async def said(self, messages: Sequence[Message], *, max_tokens: int) -> str:
        """The model's greedy answer, as a chat where it has a template, else as a continuation."""
        asked = {"max_tokens": max_tokens, "temperature": 0}
        if self.has_template:
            turns = [message.model_dump() for message in messages]
            answer = await self._post("/v1/chat/completions", asked | {"messages": turns})
            return str(answer["choices"][0]["message"]["content"] or "")
        prompt = "\n\n".join(message.content for message in messages)
        answer = await self._post("/v1/completions", asked | {"prompt": prompt})
        return str(answer["choices"][0]["text"])

    async def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._named():
            return await self.link.post(route, body)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Several roles may share a link: a refusal names the one that asked."""
        try:
            yield
        except Refusal as refusal:
            said = refusal.message.replace("the engine", f"the engine of the {self.role}", 1)
            raise type(refusal)(said, param=refusal.param) from refusal


def _scored(positions: Sequence[Any], ids: Sequence[int]) -> Scored:
    # by id: vLLM may list likelier tokens beside the actual one, in any order
    entries = [position[str(token)] for position, token in zip(positions[1:], ids[1:], strict=True)]
    texts = [sys.intern(entry["decoded_token"] or "") for entry in entries]
    return Scored([float(entry["logprob"]) for entry in entries], texts)
