"""Answers sampled from a model in an engine, for annotation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import httpx

from reward.spec import Endpoint
from service.annotating import Sampling
from service.errors import Invalid, Unavailable
from service.sentences import without_paths

SECONDS = 600.0


@dataclass(frozen=True)
class Sampler:
    """Asks one engine on loopback; thread-safe."""

    http: httpx.Client
    endpoint: Endpoint
    tenant: str
    sampling: Sampling
    n: int

    def answers(self, prompt: str | tuple[dict[str, str], ...], seed: int) -> list[str]:
        """`n` answers, of which some may be empty. Raises Invalid if the engine refuses, Unavailable if it is gone."""
        chat = not isinstance(prompt, str)
        body = self._settings(seed) | ({"messages": list(prompt)} if chat else {"prompt": prompt})
        url = f"{self.endpoint.url}/v1/{'chat/' if chat else ''}completions"
        try:
            answer = self.http.post(url, json=body, headers=self.endpoint.headers(), timeout=SECONDS)
        except httpx.TransportError as error:
            raise Unavailable("the policy's engine does not answer") from error
        if answer.is_server_error or answer.status_code == httpx.codes.NOT_FOUND:
            raise Unavailable(f"the policy's engine failed (status {answer.status_code})")
        parsed: dict[str, Any] = answer.json()
        if not answer.is_success:
            said = without_paths(str(parsed["error"]["message"]))
            raise Invalid(f"the policy's engine refused: {said}")
        choices = sorted(parsed["choices"], key=lambda choice: choice["index"])
        return [(choice["message"]["content"] if chat else choice["text"]) or "" for choice in choices]

    def _settings(self, seed: int) -> dict[str, Any]:
        asked = self.sampling.model_dump(exclude_none=True)
        salt = hashlib.sha256(self.tenant.encode()).hexdigest()
        return asked | {"model": self.endpoint.name, "n": self.n, "seed": seed, "cache_salt": salt}
