"""A service in this process over a fresh home folder, spoken to over HTTP; attempts are real processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from openai import OpenAI

from service import keys, processes, registry
from service.app import create_app
from service.parts import Parts
from service.settings import Settings

PROGRAM = Path(__file__).with_name("worker_program.py")
PAIR = {
    "input": {"messages": [{"role": "user", "content": "How was it?"}]},
    "preferred_output": [{"role": "assistant", "content": "Splendid."}],
    "non_preferred_output": [{"role": "assistant", "content": "Dreadful."}],
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Every test over the API runs on both databases."""
    return request.getfixturevalue("postgres").database() if request.param == "postgresql" else None


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        trainer_python=PROGRAM,
        serving_python=tmp_path / "no-serving-environment" / "bin" / "python",
        extensions_dir=tmp_path / "extensions",
        tick_seconds=0.02,
        max_file_bytes=100_000,
    )


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "head_dim": 32, "hidden_size": 64, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def api(settings: Settings, base_folder: Path) -> Iterator[TestClient]:
    """A client of tenant `ada`, with the base model `tiny` allowed; jobs that still run at the end are killed."""
    app = create_app(settings)
    parts: Parts = app.state.parts
    with parts.database.transaction() as db:
        _, text = keys.create(db, tenant="ada", name="test")
        registry.add_base(db, "tiny", base_folder, source="test")
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}, raise_server_exceptions=False) as client:
        yield client
    for folder in settings.artifacts.iterdir():
        process = processes.find(folder)
        if process is not None and process.alive:
            process.stop(grace=0)


@pytest.fixture
def parts(api: TestClient) -> Parts:
    found: Parts = api.app.state.parts  # type: ignore[attr-defined]
    return found


@pytest.fixture
def client(api: TestClient) -> Iterator[OpenAI]:
    """The official client, of tenant `ada`, over a real socket; it repeats nothing unless told to."""
    server = uvicorn.Server(uvicorn.Config(api.app, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    key = api.headers["Authorization"].removeprefix("Bearer ")
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as official:
        yield official
    server.should_exit = True
    thread.join()


@pytest.fixture
def stranger(api: TestClient, parts: Parts) -> TestClient:
    """A client of another tenant."""
    with parts.database.transaction() as db:
        _, text = keys.create(db, tenant="bob", name="test")
    return TestClient(api.app, headers={"Authorization": f"Bearer {text}"})


@pytest.fixture
def upload(api: TestClient) -> Callable[..., dict[str, Any]]:
    def send(content: str | bytes | None = None, purpose: str = "fine-tune") -> dict[str, Any]:
        body = json.dumps(PAIR) + "\n" if content is None else content
        answer = api.post("/v1/files", files={"file": ("pairs.jsonl", body)}, data={"purpose": purpose})
        parsed: dict[str, Any] = answer.json()
        return parsed

    return send


@pytest.fixture
def create(api: TestClient, upload: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Create a job; fields given replace the defaults."""

    def send(act: str = "succeed", **fields: Any) -> dict[str, Any]:
        body = {"model": "tiny", "method": {"type": "dpo"}, "metadata": {"act": act}} | fields
        if "training_file" not in body:
            body["training_file"] = upload()["id"]
        parsed: dict[str, Any] = api.post("/v1/fine_tuning/jobs", json=body).json()
        return parsed

    return send


@pytest.fixture
def until(api: TestClient) -> Callable[..., dict[str, Any]]:
    """Wait until a job has the status."""

    def wait(job: str, status: str, timeout: float = 20) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            found: dict[str, Any] = api.get(f"/v1/fine_tuning/jobs/{job}").json()
            if found["status"] == status:
                return found
            assert time.monotonic() < deadline, f"still {found['status']}: {found}"
            time.sleep(0.02)

    return wait
