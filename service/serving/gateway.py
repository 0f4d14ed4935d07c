"""The way of a completion through vLLM: our names outside, its own inside, nothing of it shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx
from starlette.responses import JSONResponse, Response, StreamingResponse

from reward.spec import Endpoint
from service.errors import Invalid, Unavailable
from service.sentences import without_paths

Route = Literal["chat/completions", "completions"]

#: vLLM's fields that are about its insides, other requests or other machines
INSIDE = (
    "chat_template", "ec_transfer_params", "kv_transfer_params", "media_io_kwargs", "mm_payload",
    "mm_processor_kwargs", "priority", "prompt_embeds", "request_id", "session_id", "vllm_xargs",
)  # fmt: skip
GONE = "the engine of {} ended while it was asked; it is started again at the next request"


@dataclass(frozen=True)
class Names:
    """A model's two names."""

    public: str
    inside: str

    def outward(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer or a chunk of vLLM as the caller may see it."""
        if "error" in body:
            return self.envelope(body["error"])
        return body | {"model": self.public} if "model" in body else body

    def envelope(self, error: object, status: int = 500) -> dict[str, Any]:
        """vLLM's error in our shape: all four keys, no name or path of the inside."""
        told = error if isinstance(error, Mapping) else {}
        code = told.get("code", status)
        server = isinstance(code, int) and code >= httpx.codes.INTERNAL_SERVER_ERROR
        param = told.get("param")
        said = {
            "message": "the engine failed at this request" if server else self._message(told, code),
            "type": "server_error" if server else "invalid_request_error",
            "param": param.removeprefix("body.") if isinstance(param, str) else None,
            "code": None,
        }
        return {"error": said}

    def _message(self, told: Mapping[str, Any], code: object) -> str:
        if code == httpx.codes.NOT_FOUND:
            return f"{self.public} is not loaded at the moment; try again"
        text = str(told.get("message") or "the engine refused this request without a reason")
        return without_paths(text.replace(f"`{self.inside}`", self.public))


async def forward(
    body: dict[str, Any],
    *,
    route: Route,
    public_id: str,
    endpoint: Endpoint,
    tenant: str,
    client: httpx.AsyncClient,
) -> Response:
    """Ask the engine and answer as our own: `model` is the public id in the answer and in every chunk.

    Streams are passed on as they come; when the caller goes away the request inside is ended.
    A refusal of vLLM keeps its status. Raises Invalid for fields that are not offered, Unavailable if the
    engine is gone.
    """
    _refuse_inside(body)
    names = Names(public_id, endpoint.name)
    asked = body | {"model": endpoint.name, "cache_salt": _salt(tenant)}
    request = client.build_request("POST", f"{endpoint.url}/v1/{route}", json=asked, headers=endpoint.headers())
    try:
        upstream = await client.send(request, stream=True)
        if upstream.is_success and upstream.headers.get("content-type", "").startswith("text/event-stream"):
            return StreamingResponse(_events(upstream, names), media_type="text/event-stream")
        content = await _whole(upstream)
    except httpx.TransportError as error:
        raise Unavailable(GONE.format(public_id)) from error
    if upstream.is_success:
        return JSONResponse(names.outward(json.loads(content)))
    return JSONResponse(names.envelope(_error(content), upstream.status_code), upstream.status_code)


def _refuse_inside(body: Mapping[str, Any]) -> None:
    for name in INSIDE:
        if body.get(name) is not None:
            raise Invalid(f"{name} is not offered here", param=name, code="unsupported_parameter")


def _salt(tenant: str) -> str:
    """Keeps prefix caches of tenants apart: a time measured must not tell what others have asked."""
    return hashlib.sha256(tenant.encode()).hexdigest()


async def _whole(upstream: httpx.Response) -> bytes:
    try:
        return await upstream.aread()
    finally:
        await upstream.aclose()


def _error(content: bytes) -> object:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body.get("error") if isinstance(body, dict) else None


async def _events(upstream: httpx.Response, names: Names) -> AsyncIterator[bytes]:
    """The stream's lines, names exchanged; an engine that ends in the middle becomes an error event."""
    try:
        async for line in _lines(upstream):
            yield _outward(line, names)
    except httpx.TransportError:
        error = Unavailable(GONE.format(names.public)).envelope()
        yield f"data: {json.dumps(error)}\n\n".encode()
    finally:
        # the caller's leaving cancels this task; vLLM must still hear of it
        with anyio.CancelScope(shield=True):
            await upstream.aclose()


async def _lines(upstream: httpx.Response) -> AsyncIterator[bytes]:
    """Split at b"\\n" alone: a JSON text may hold other characters that end lines elsewhere."""
    rest = b""
    async for chunk in upstream.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _outward(line: bytes, names: Names) -> bytes:
    field, separator, value = line.partition(b": ")
    if field != b"data" or not value.startswith(b"{"):
        return line
    return field + separator + json.dumps(names.outward(json.loads(value)), ensure_ascii=False).encode() + b"\n"
