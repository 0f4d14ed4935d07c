"""Endpoints that an operator named: somebody else's server, asked in JSON."""

from __future__ import annotations

import math
from typing import Any

from reward.endpoints import Endpoint
from reward.errors import Broken, Unavailable
from reward.models.base import Run

SERVER_ERROR = 500


async def asked(run: Run, endpoint: Endpoint, body: dict[str, Any]) -> Any:
    """Its answer. Raises Unavailable if it does not answer, Broken if that is no JSON or a refusal."""
    import httpx

    name = endpoint.name
    try:
        answer = await run.client.post(endpoint.url, json=body, headers=endpoint.headers())
    except httpx.TransportError as error:
        raise Unavailable(f"the endpoint {name} does not answer") from error
    if answer.status_code >= SERVER_ERROR:
        raise Unavailable(f"the endpoint {name} failed (status {answer.status_code})")
    if not answer.is_success:
        raise Broken(f"the endpoint {name} refused (status {answer.status_code})")
    try:
        return answer.json()
    except ValueError as error:
        raise Broken(f"the endpoint {name} answered with something that is no JSON") from error


def numbers(found: Any, count: int, endpoint: Endpoint) -> list[float]:
    """That many finite numbers. Raises Broken."""
    if not isinstance(found, list) or len(found) != count:
        raise Broken(f"the endpoint {endpoint.name} did not give one score for each of {count} answers")
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Broken(f"the endpoint {endpoint.name} gave {value!r} as a score")
    return [float(value) for value in found]
