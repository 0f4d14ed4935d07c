"""Names, errors and streams on their way through; a loopback server replays what vLLM 0.32 was seen to answer."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from reward.spec import Endpoint
from service.errors import Invalid, Unavailable
from service.serving.gateway import forward

CHUNK = '{"id":"cmpl-1","object":"text_completion","model":"x-a1","choices":[{"index":0,"text":"%s"}]}'
STREAM = [f"data: {CHUNK % text}\n\n".encode() for text in ("Once", " upon\u2028a", " time")] + [b"data: [DONE]\n\n"]


@dataclass
class Replay:
    """What the server answers, and what it was asked."""

    status: int = 200
    content: bytes = b"{}"
    stream: list[bytes] = field(default_factory=list)
    endless: bool = False
    dies: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@pytest.fixture
def replay() -> Iterator[Replay]:
    told = Replay()

    class Routes(BaseHTTPRequestHandler):
        def do_POST(self):
            told.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(told.status)
            if told.stream or told.endless:
                return self.events()
            self.send_header("content-length", str(len(told.content)))
            self.end_headers()
            return self.wfile.write(told.content)

        def events(self):
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            if told.dies:
                self.send_header("content-length", "1000000")
            self.end_headers()
            for piece in told.stream:
                self.wfile.write(piece)
            try:
                while told.endless:
                    self.wfile.write(STREAM[0])
                    time.sleep(0.01)
            except OSError:
                told.left.set()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Routes)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(replay: Replay) -> Callable[..., tuple[int, bytes]]:
    """Forward a body as tenant `ada`; status and the whole content."""

    async def forwarded(body: dict[str, Any], url: str) -> tuple[int, bytes]:
        async with httpx.AsyncClient(trust_env=False) as client:
            endpoint = Endpoint(url=url, name="x-a1")
            answer = await forward(
                body, route="completions", public_id="ft:m:x", endpoint=endpoint, tenant="ada", client=client
            )
            if isinstance(answer, StreamingResponse):
                pieces = [piece async for piece in answer.body_iterator]
                return answer.status_code, b"".join(p if isinstance(p, bytes) else bytes(p, "utf-8") for p in pieces)
            return answer.status_code, bytes(answer.body)

    return lambda body, url="": asyncio.run(forwarded(body, url or replay.url))


def test_names_are_exchanged_both_ways_and_nothing_else_is(replay, ask):
    replay.content = b'{"id":"cmpl-1","model":"x-a1","choices":[{"text":"x-a1 is what I say"}],"usage":null}'
    status, content = ask({"model": "ft:m:x", "prompt": "hi", "temperature": 0})
    assert status == 200
    assert json.loads(content) == {
        "id": "cmpl-1",
        "model": "ft:m:x",
        "choices": [{"text": "x-a1 is what I say"}],
        "usage": None,
    }
    assert replay.asked[0] | {"cache_salt": ""} == {"model": "x-a1", "prompt": "hi", "temperature": 0, "cache_salt": ""}


def test_the_cache_salt_is_the_tenants_whatever_the_caller_sends(replay, ask):
    ask({"prompt": "hi", "cache_salt": "bobs"})
    ask({"prompt": "hi"})
    first, second = (asked["cache_salt"] for asked in replay.asked)
    assert first == second != "bobs"


def test_every_chunk_of_a_stream_bears_the_public_name_and_its_text_unharmed(replay, ask):
    replay.stream = [piece[k : k + 7] for piece in STREAM for k in range(0, len(piece), 7)]  # cut anywhere
    status, content = ask({"prompt": "hi", "stream": True})
    *events, last = content.decode().removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert (status, last) == (200, "data: [DONE]")
    assert {chunk["model"] for chunk in chunks} == {"ft:m:x"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Once upon\u2028a time"


RECORDED = [
    (
        400,
        '{"error":{"message":"max_tokens=1000 cannot be greater than max_model_len=512. Please request fewer output tokens. (parameter=max_tokens, value=1000)","type":"BadRequestError","param":"max_tokens","code":400}}',
        ("max_tokens=1000 cannot be greater than max_model_len=512", "invalid_request_error", "max_tokens"),
    ),
    (
        400,
        "{\"error\":{\"message\":\"1 validation error:\\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a valid number', 'input': 'hot'}\",\"type\":\"Bad Request\",\"param\":\"body.temperature\",\"code\":400}}",
        ("Input should be a valid number", "invalid_request_error", "temperature"),
    ),
    (
        404,
        '{"error":{"message":"The model `x-a1` does not exist. Valid aliases: base.","type":"NotFoundError","param":"model","code":404}}',
        ("ft:m:x is not loaded", "invalid_request_error", "model"),
    ),
    (
        400,
        '{"error":{"message":"Loading lora x-a1 failed: No adapter found for /home/a/artifacts/x-a1/adapter","type":"BadRequestError","param":null,"code":400}}',
        ("No adapter found for (path)", "invalid_request_error", None),
    ),
    (
        500,
        '{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}',
        ("the engine failed at this request", "server_error", None),
    ),
    (500, "Internal Server Error", ("the engine failed at this request", "server_error", None)),
]


@pytest.mark.parametrize(("status", "content", "expected"), RECORDED)
def test_a_refusal_keeps_its_status_and_loses_what_is_inside(replay, ask, status, content, expected):
    replay.status, replay.content = status, content.encode()
    answered, body = ask({"prompt": "hi"})
    error = json.loads(body)["error"]
    assert answered == status
    assert set(error) == {"message", "type", "param", "code"}
    assert expected[0] in error["message"]
    assert (error["type"], error["param"], error["code"]) == (*expected[1:], None)
    assert "/home" not in error["message"]
    assert "`x-a1`" not in error["message"]


def test_an_error_in_a_stream_is_told_in_our_shape(replay, ask):
    replay.stream = [
        STREAM[0],
        b'data: {"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","param":null,"code":500}}\n\n',
        STREAM[-1],
    ]
    _, content = ask({"prompt": "hi", "stream": True})
    error = json.loads(content.split(b"\n\n")[1].removeprefix(b"data: "))["error"]
    assert error == {
        "message": "the engine failed at this request",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(replay, ask):
    replay.stream, replay.dies = STREAM[:2], True
    _, content = ask({"prompt": "hi", "stream": True})
    error = json.loads(content.split(b"\n\n")[2].removeprefix(b"data: "))["error"]
    assert error["type"] == "server_error"
    assert "ended while it was asked" in error["message"]


def test_an_engine_that_is_gone_is_unavailable(ask):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="ft:m:x ended"):
            ask({"prompt": "hi"}, f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.mark.parametrize("name", ["kv_transfer_params", "chat_template", "request_id", "vllm_xargs", "prompt_embeds"])
def test_fields_about_the_inside_are_refused(replay, ask, name):
    with pytest.raises(Invalid, match=name) as caught:
        ask({"prompt": "hi", name: "x"})
    assert caught.value.param == name
    assert replay.asked == []


@pytest.fixture
def served(replay: Replay) -> Iterator[str]:
    """The gateway behind a real HTTP server."""
    client = httpx.AsyncClient(trust_env=False, timeout=30)

    async def route(request):
        endpoint = Endpoint(url=replay.url, name="x-a1")
        body = await request.json()
        return await forward(body, route="completions", public_id="m", endpoint=endpoint, tenant="t", client=client)

    app = Starlette(routes=[Route("/", route, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_chunks_arrive_at_once_and_when_the_caller_leaves_the_engine_is_told(replay, served):
    replay.endless = True
    with httpx.stream("POST", served, json={"stream": True}, trust_env=False) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
        assert not replay.left.is_set()
    assert replay.left.wait(5)
