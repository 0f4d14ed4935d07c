"""`prefserve up` as a child process: started on a free port with a home of its own, and always stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTS_WITHIN, STOPS_WITHIN = 60.0, 60.0  #: seconds


class NotRunning(Exception):
    """The service did not start, or a command of it failed; the message holds what it said."""


@dataclass(frozen=True)
class ControlPlane:
    """A service that answers."""

    url: str
    key: str
    home: Path


def register(home: Path, name: str, model: Path) -> None:
    """`prefserve models add`: allow a base model. Raises NotRunning with the refusal."""
    command = [sys.executable, "-m", "service.cli", "--home", str(home), "models", "add", name, str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotRunning(done.stderr.strip())


@contextmanager
def running(home: Path) -> Iterator[ControlPlane]:
    """The service, ready; stopped with its engines when the block ends, however it ends."""
    log = home / "service.log"
    log.touch(mode=0o600)  # it holds the key
    with log.open("w") as output:
        # A session of its own: Ctrl-C is for us, who still have a job to cancel before the service may go.
        command = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", "0"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield _ready(process, log, home)
    finally:
        _stop(process)


def _ready(process: subprocess.Popen[bytes], log: Path, home: Path) -> ControlPlane:
    deadline = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        said = log.read_text()
        url, key = re.search(r"http://\S+?(?=/v1)", said), re.search(r"sk-\S+", said)
        if url and key and _answers(url[0]):
            return ControlPlane(url[0], key[0], home)
        time.sleep(0.1)
    raise NotRunning(f"the service did not become ready; it said:\n{log.read_text()}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False  # not listening yet; asked again


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise NotRunning(f"the service did not stop within {STOPS_WITHIN:.0f} s and was killed") from None
