"""The scoring process: started at the first order, restarted when it has died, stopped with the service."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from reward.client import RewardClient, RewardError
from reward.spec import ScoreList, ScoreOrder
from service import processes
from service.errors import Broken, Invalid, Unavailable
from service.processes import Process
from service.serving import children

START_SECONDS, LOOK_SECONDS, PAUSE_SECONDS, DYING_SECONDS = 30.0, 2.0, 0.05, 1.0


@dataclass(frozen=True)
class Running:
    """A scoring process that was ready once, and the client that knows its token."""

    process: Process
    client: RewardClient

    def stop(self) -> None:
        """End it."""
        self.client.close()
        self.process.stop(children.GRACE_SECONDS)


class Scoring:
    """Thread-safe; one left behind by an earlier control plane over the same home is ended at once."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "scoring"
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._closed = False
        children.end_orphan(self._folder)

    def score(self, order: ScoreOrder) -> ScoreList:
        """Carry an order out. Raises Invalid with the field that is wrong, Unavailable with what is not there."""
        running = self._ready()
        try:
            return _ask(running, order)
        except httpx.TimeoutException as error:
            raise Unavailable("scoring took too long; send fewer or shorter inputs at once") from error
        except httpx.TransportError:
            # it died since or while it was asked; scoring changes nothing, so it may be asked again
            _until_seen_dead(running.process)
            running = self._ready()
        try:
            return _ask(running, order)
        except httpx.TransportError as error:
            raise Unavailable("the scoring process does not answer") from error

    def close(self) -> None:
        """Stop the process and start none any more."""
        with self._lock:
            self._closed = True
            self._empty()

    @property
    def pid(self) -> int | None:
        """The living process."""
        running = self._running
        return running.process.pid if running is not None and running.process.alive else None

    def _ready(self) -> Running:
        with self._lock:
            if self._closed:
                raise Unavailable("the service is stopping")
            if self._running is None or not self._running.process.alive:
                self._empty()
                self._running = self._start()
            return self._running

    def _empty(self) -> None:
        if self._running is not None:
            self._running.stop()
        self._running = None

    def _start(self) -> Running:
        python, port, token = Path(sys.executable), children.free_port(), secrets.token_urlsafe(32)
        argv = [str(python), "-m", "reward.app", "--host", "127.0.0.1", "--port", str(port)]
        env = processes.environment(python) | {"PREFSERVE_REWARD_TOKEN": token}
        try:
            process = children.start_afresh(self._folder, argv, env)
        except OSError as error:
            raise Unavailable(f"the scoring process could not be started: {error.strerror}") from error
        self._wait(process, f"http://127.0.0.1:{port}")
        return Running(process, RewardClient(f"http://127.0.0.1:{port}/v1", token))

    def _wait(self, process: Process, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(base_url=url, timeout=LOOK_SECONDS, trust_env=False) as http:
            while not _lives(http):
                if not process.alive or time.monotonic() > deadline:
                    process.stop(children.GRACE_SECONDS)
                    raise Unavailable(f"the scoring process did not start: {children.last_words(self._folder)}")
                time.sleep(PAUSE_SECONDS)


def _until_seen_dead(process: Process) -> None:
    """A process that was just killed counts as alive for a moment."""
    deadline = time.monotonic() + DYING_SECONDS
    while process.alive and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)


def _lives(http: httpx.Client) -> bool:
    try:
        return http.get("/livez").is_success
    except httpx.TransportError:
        return False


def _ask(running: Running, order: ScoreOrder) -> ScoreList:
    try:
        return running.client.carry_out(order)
    except RewardError as error:
        if error.status == Invalid.status:
            raise Invalid(error.message, param=error.param, code=error.code) from error
        if error.status == Broken.status:
            raise Broken(error.message, param=error.param) from error
        raise Unavailable(error.message) from error
