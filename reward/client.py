"""How others score: a small client of `/v1/rewards`, and its shape as a TRL reward function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import httpx

from reward.models import AnyReward, Reward
from reward.spec import (
    INPUTS_PER_REQUEST,
    AnyInput,
    Continuation,
    Endpoint,
    ScoreList,
    ScoreOrder,
    ScoreRequest,
)

Input = AnyInput | Mapping[str, Any]
#: as TRL hands them over: texts, or lists of messages
Side = str | Sequence[Mapping[str, Any]]


class RewardError(Exception):
    """The server refused or failed; its status and the four keys of its error."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(error["message"])
        self.status = status
        self.message: str = error["message"]
        self.type: str | None = error.get("type")
        self.param: str | None = error.get("param")
        self.code: str | None = error.get("code")


class RewardClient:
    """Scores over HTTP; `base_url` ends in `/v1`. A context manager, and thread-safe."""

    def __init__(self, base_url: str, api_key: str, *, timeout: float = 600) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Timeout(timeout, connect=5)
        local = httpx.URL(base_url).host in ("127.0.0.1", "localhost", "::1")  # never through a proxy
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=limits, trust_env=not local)

    def score(
        self,
        model: AnyReward | str,
        inputs: Sequence[Input],
        *,
        endpoints: Mapping[str, Endpoint] | None = None,
        **options: Any,
    ) -> ScoreList:
        """Score up to 256 inputs; `options` are the other fields of a request (`aggregation`, `include`, ...).

        `endpoints` only where the scoring process itself is asked. Raises RewardError for an answer that is none,
        httpx.TransportError if nobody answers, and pydantic.ValidationError for inputs of no known shape.
        """
        request = ScoreRequest.model_validate({"model": model, "input": list(inputs), **options})
        if endpoints is None:
            return self._send(request)
        return self.carry_out(ScoreOrder(request=request, endpoints=dict(endpoints)))

    def carry_out(self, order: ScoreOrder) -> ScoreList:
        """Have the scoring process score; raises as `score`."""
        return self._send(order)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, body: ScoreRequest | ScoreOrder) -> ScoreList:
        answer = self._http.post(
            "/rewards", content=body.model_dump_json(), headers={"Content-Type": "application/json"}
        )
        if not answer.is_success:
            raise RewardError(answer.status_code, _error(answer))
        return ScoreList.model_validate_json(answer.content)


def reward_function(client: RewardClient, model: AnyReward | str, **options: Any) -> Callable[..., list[float]]:
    """`f(prompts, completions, **columns)` as TRL's trainers call it; an empty answer is worth 0, the empty sum.

    `options` are the other fields of a request, `aggregation` say.
    """

    def scored(prompts: Sequence[Side], completions: Sequence[Side], **_: Any) -> list[float]:
        pairs = list(zip(prompts, completions, strict=True))
        full = [place for place, (_, answer) in enumerate(pairs) if _text(answer)]
        worth = [0.0] * len(pairs)
        for first in range(0, len(full), INPUTS_PER_REQUEST):
            places = full[first : first + INPUTS_PER_REQUEST]
            answer = client.score(model, [_input(*pairs[place]) for place in places], **options)
            for place, score in zip(places, answer.data, strict=True):
                worth[place] = score.score
        return worth

    scored.__name__ = model.type if isinstance(model, Reward) else model
    return scored


def _input(prompt: Side, answer: Side) -> Input:
    if isinstance(prompt, str) and isinstance(answer, str):
        return Continuation(prompt=prompt, response=answer)
    if isinstance(prompt, str) or isinstance(answer, str):
        raise TypeError("prompt and completion must both be texts or both be lists of messages")
    return {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in (*prompt, *answer)]}


def _text(answer: Side) -> str:
    return answer if isinstance(answer, str) else "".join(str(turn["content"]) for turn in answer)


def _error(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        error: Mapping[str, Any] = answer.json()["error"]
        return {"message": str(error["message"])} | dict(error)
    except (ValueError, KeyError, TypeError):
        return {"message": f"the server answered {answer.status_code} without an error it knows"}
