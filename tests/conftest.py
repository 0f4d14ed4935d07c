"""What all tests share: where real data lies, and a whole service in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from service import processes
from tests.postgres import Cluster, running

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real models and data."""
    folder = Path(os.environ.get("PREFSERVE_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; PREFSERVE_REALDATA names another place")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server of the session's own."""
    with running() as cluster:
        yield cluster


@dataclass(frozen=True)
class Service:
    """A running `prefserve up` with its state folder and a client of it."""

    home: Path
    url: str
    client: OpenAI

    def prefserve(self, *argv: str) -> str:
        """Run a command of the CLI on the service's state; its output."""
        return _cli(self.home, *argv)


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Start `prefserve up` with base models by name; all are stopped, politely, at the end of the module."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(models: dict[str, Path], **environment: str) -> Service:
        home = tmp_path_factory.mktemp("home")
        for name, folder in models.items():
            _cli(home, "models", "add", name, str(folder))
        log = home / "up.txt"
        with log.open("wb") as output:
            argv = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0"]
            up = subprocess.Popen(argv, stdout=output, stderr=output, env=os.environ | environment)
        started.append((up, log))
        return _ready(up, log, home)

    yield start
    for up, _ in started:
        up.terminate()
    for up, log in started:
        assert up.wait(60) == -signal.SIGTERM
        assert log.read_text().endswith("prefserve has stopped\n")
        _end_what_still_trains(log.parent)


def _ready(up: subprocess.Popen[bytes], log: Path, home: Path) -> Service:
    deadline = time.monotonic() + 60
    while not (url := re.search(r"ready at (\S+)/v1", log.read_text())):
        assert up.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    key = re.search(r"sk-\S+", log.read_text())
    assert key, "the first start shows a key"
    return Service(home, url[1], OpenAI(base_url=f"{url[1]}/v1", api_key=key[0], max_retries=0))


def _end_what_still_trains(home: Path) -> None:
    """A stopped service leaves its attempts running; a test that failed half-way must not."""
    for folder in (home / "artifacts").iterdir():
        for process in processes.running_with(str(folder / "spec.json")):  # torchrun's workers lead their own groups
            process.stop(grace=0)


def _cli(home: Path, *argv: str) -> str:
    command = [sys.executable, "-m", "service.cli", "--home", str(home), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
