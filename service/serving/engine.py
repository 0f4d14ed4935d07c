"""One running vLLM for one model folder: started, asked until it answers, given adapters, stopped."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from service.errors import Unavailable
from service.processes import Process
from service.sentences import without_paths
from service.serving import children, limits
from service.serving.command import BASE, argv, env

FIRST_ANSWER_SECONDS, ADAPTER_SECONDS, LOOK_SECONDS, PAUSE_SECONDS = 60.0, 120.0, 2.0, 0.1


@dataclass(frozen=True)
class EngineSettings:
    """How engines run; one for all models."""

    python: Path  #: interpreter of the serving environment
    home: Path  #: engines get their folders under `home/engines`
    gpu: bool
    dtype: str = "auto"  #: auto: float32 on CPU, the model's own on a GPU
    max_model_len: int | None = None  #: tokens; None: the model's own, up to 4096
    max_lora_rank: int = 64
    max_loras: int = 4  #: adapters in one batch
    max_cpu_loras: int = 16  #: adapters kept in memory
    lora_targets: tuple[str, ...] = limits.LORA_TARGETS
    kv_cache_bytes: int | None = None  #: on CPU; None: eight full sequences
    gpu_memory_share: float = 0.4
    start_timeout_s: float = 300
    max_engines: int = 2
    threads: int | None = None  #: on CPU; None: half of the cores, one at least

    def folder(self, base: str) -> Path:
        """Where the engine of a model has its log and the record of its process."""
        return self.home / "engines" / quote(base, safe="")


@dataclass(frozen=True)
class Engine:
    """A vLLM process that was ready once; whether it still lives is asked of the system."""

    base: str
    folder: Path
    url: str
    key: str = field(repr=False)
    process: Process
    http: httpx.Client = field(repr=False)

    @classmethod
    def start(cls, base: str, path: Path, settings: EngineSettings, cancelled: Callable[[], bool]) -> Self:
        """Start a vLLM on the model folder and wait for its first answered completion.

        Raises Invalid if the model cannot be served, Unavailable with a sentence if the engine does not come up.
        """
        if not settings.python.exists():
            raise Unavailable("the serving environment is not installed: run `make setup`")
        config = _config(base, path)
        limits.check_base(config, gpu=settings.gpu)
        folder, port = settings.folder(base), children.free_port()
        key = secrets.token_urlsafe(32)  # other accounts of this machine reach the port too
        try:
            process = children.start_afresh(folder, argv(config, path, port, settings), env(settings, key))
        except OSError as error:
            raise Unavailable(f"the engine of {base} could not be started: {error.strerror}") from error
        url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {key}"}
        engine = cls(base, folder, url, key, process, httpx.Client(base_url=url, headers=headers, trust_env=False))
        engine._wait(time.monotonic() + settings.start_timeout_s, cancelled)
        return engine

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return self.process.alive

    @property
    def busy(self) -> bool:
        """Whether requests are running or waiting in it now; a silent engine is not busy."""
        try:
            metrics = self.http.get("/metrics", timeout=LOOK_SECONDS).text
        except httpx.TimeoutException:
            return True  # alive and too occupied to say so
        except httpx.TransportError:
            return False
        counts = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
        return any(float(line.rsplit(" ", 1)[1]) > 0 for line in metrics.splitlines() if line.startswith(counts))

    def load(self, adapter: str, path: Path) -> None:
        """Take an adapter in under its name; one that is there already is left as it is. Raises Unavailable."""
        body = {"lora_name": adapter, "lora_path": str(path)}
        answer = self._adapter("load_lora_adapter", body)
        if not answer.is_success and "already been loaded" not in answer.text:
            raise Unavailable(f"the engine of {self.base} did not take the adapter: {_message(answer)}")

    def unload(self, adapter: str) -> None:
        """Drop an adapter; one that is not there is no error. Raises Unavailable."""
        answer = self._adapter("unload_lora_adapter", {"lora_name": adapter})
        if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
            raise Unavailable(f"the engine of {self.base} did not drop the adapter: {_message(answer)}")

    def stop(self) -> None:
        """End the process and all it started."""
        self.process.stop(children.GRACE_SECONDS)
        self.http.close()

    def _adapter(self, route: str, body: dict[str, str]) -> httpx.Response:
        try:
            return self.http.post(f"/v1/{route}", json=body, timeout=ADAPTER_SECONDS)
        except httpx.TransportError as error:
            raise Unavailable(f"the engine of {self.base} does not answer") from error

    def _wait(self, deadline: float, cancelled: Callable[[], bool]) -> None:
        while not self._answers():
            why = self._given_up(deadline, cancelled)
            if why is not None:
                self.stop()
                raise Unavailable(f"the engine of {self.base} did not start: {why}")
            time.sleep(PAUSE_SECONDS)

    def _given_up(self, deadline: float, cancelled: Callable[[], bool]) -> str | None:
        if not self.process.alive:
            return children.last_words(self.folder)
        if cancelled():
            return "the service is stopping"
        return "it was not ready in time" if time.monotonic() > deadline else None

    def _answers(self) -> bool:
        """One completed token: vLLM's /health says yes of engines that die at their first request."""
        body = {"model": BASE, "prompt": [1], "max_tokens": 1}
        try:
            return self.http.post("/v1/completions", json=body, timeout=FIRST_ANSWER_SECONDS).is_success
        except httpx.TransportError:
            return False


def _config(base: str, path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except OSError as error:
        raise Unavailable(f"the files of {base} cannot be read: {error.strerror}") from error
    return config


def _message(answer: httpx.Response) -> str:
    try:
        return without_paths(str(answer.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
