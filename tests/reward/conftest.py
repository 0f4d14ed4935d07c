"""The scoring API over an engine small enough to enumerate: bigram models of four letters behind vLLM's routes."""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import uvicorn

from reward.app import create_app
from reward.client import RewardClient
from reward.spec import DensityRatio, Endpoint, Facts, ScoreOrder, ScoreRequest

LETTERS = ".abc"
CONTEXT = 12
#: rows: the letter before; columns: the next letter
TABLES = {
    "strong": ((0.1, 0.6, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4), (0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1)),
    "weak": ((0.3, 0.3, 0.2, 0.2), (0.4, 0.2, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4), (0.25, 0.25, 0.4, 0.1)),
}
TABLES["stranger"] = TABLES["weak"]
SPELLING = {"strong": LETTERS, "weak": LETTERS, "stranger": ".acb"}


@dataclass
class Toy:
    """Where the toy engine answers and what it was asked; `broken` makes it fail."""

    url: str = ""
    broken: bool = False
    nan: bool = False
    says: Callable[[str], str] = str.upper  #: its answer as a chat model
    others: dict[str, Any] = field(default_factory=dict)  #: what it answers on routes that are not vLLM's
    vectors: dict[str, list[float]] = field(default_factory=dict)  #: its embeddings
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        return {name: Endpoint(url=self.url, name=name) for name in TABLES}

    def endpoint(self, name: str, **facts: Any) -> Endpoint:
        """A model somebody vouches for."""
        known = {"digest": name, "tokenizer_sha256": "t", "chat_template_sha256": "c", "dtype": "float32"} | facts
        return Endpoint(url=self.url, name=name, facts=Facts(**known))

    def scored(self) -> list[tuple[str, list[int]]]:
        """Every sequence that a model was asked to score."""
        bodies = [body for route, body in self.asked if route == "/v1/completions"]
        return sorted((body["model"], ids) for body in bodies for ids in body["prompt"])


def answer(toy: Toy, route: str, body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM would say."""
    if route in toy.others:
        return toy.others[route]
    if route == "/version":
        return {"version": "0.0.toy"}
    if route == "/v1/completions":
        listed = [positions(body["model"], ids) for ids in body["prompt"]]
        if toy.nan:
            next(iter(listed[0][-1].values()))["logprob"] = math.nan
            listed[0][-1] = dict.fromkeys(listed[0][-1], next(iter(listed[0][-1].values())))
        return {"choices": [{"index": k, "prompt_logprobs": found} for k, found in enumerate(listed)][::-1]}
    if route == "/v1/chat/completions":
        return {"choices": [{"message": {"content": toy.says(body["messages"][-1]["content"])}}]}
    if route == "/v1/embeddings":
        return {"data": [{"index": k, "embedding": toy.vectors[text]} for k, text in enumerate(body["input"])][::-1]}
    if route == "/detokenize":
        return {"prompt": "".join(LETTERS[token] for token in body["tokens"])}
    text = body.get("prompt")
    if text is None:  # a conversation: a dot before every turn, and one more where the answer is to follow
        text = "".join("." + turn["content"] for turn in body["messages"]) + "." * body["add_generation_prompt"]
    elif body.get("add_special_tokens", True):
        text = "." + text
    return {"tokens": [LETTERS.index(letter) for letter in text], "max_model_len": CONTEXT}


def positions(model: str, ids: list[int]) -> list[Any]:
    """As vLLM lists them: the likeliest token may stand before the actual one."""
    listed: list[Any] = [None]
    for before, token in itertools.pairwise(ids):
        row = TABLES[model][before]
        best = max(range(4), key=row.__getitem__)
        entry = {k: {"logprob": math.log(row[k]), "decoded_token": SPELLING[model][k]} for k in (best, token)}
        listed.append({str(k): value for k, value in entry.items()})
    return listed


@pytest.fixture(scope="session")
def tables() -> dict[str, tuple[tuple[float, ...], ...]]:
    """The toy models: p(next | before) per model."""
    return TABLES


@pytest.fixture
def toy() -> Iterator[Toy]:
    found = Toy()

    class Routes(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
            found.asked.append((self.path, body))
            wrong = self.path == "/v1/completions" and any(token > 3 for ids in body["prompt"] for token in ids)
            refused = {"error": {"message": "a token id is out of vocabulary"}}
            content = json.dumps({} if found.broken else refused if wrong else answer(found, self.path, body)).encode()
            self.send_response(500 if found.broken else 400 if wrong else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Routes)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The scoring API, with the token `secret`."""
    server = uvicorn.Server(uvicorn.Config(create_app("secret"), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(url: str) -> Iterator[RewardClient]:
    with RewardClient(f"{url}/v1", "secret", timeout=10) as found:
        yield found


@pytest.fixture
def given(client: RewardClient, toy: Toy) -> Callable[..., Any]:
    """Score inputs by any reward over the toy engine; `services` are the operator's endpoints."""

    def scored(reward, inputs, services=None, endpoints=None, **fields):
        named = {name: Endpoint(url=url, name=name) for name, url in (services or {}).items()}
        request = ScoreRequest.model_validate({"model": reward, "input": inputs, **fields})
        order = ScoreOrder(request=request, endpoints=toy.endpoints | (endpoints or {}), services=named)
        return client.carry_out(order)

    return scored


@pytest.fixture
def score(client: RewardClient, toy: Toy) -> Callable[..., Any]:
    """Score inputs by strong over weak, both in the toy engine."""

    def scored(inputs, strong="strong", weak="weak", **fields):
        model = DensityRatio(strong=strong, weak=weak)
        return client.score(model, inputs, endpoints=toy.endpoints, **fields)

    return scored
