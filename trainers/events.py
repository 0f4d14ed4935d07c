"""Progress: every event is written down first, then pushed to the control plane, which training never waits for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from trainers.protocol import EVENTS

BATCH = 200
#: the attempt has been superseded, its token revoked or its job removed
UNWANTED = frozenset({401, 403, 404, 409})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

Level = Literal["info", "warn", "error"]
Kind = Literal["message", "metrics"]


class Progress(Protocol):
    """Where a run says how far it is."""

    def say(
        self, message: str, data: Mapping[str, Any] | None = None, *, level: Level = "info", kind: Kind = "message"
    ) -> None:
        """Report one event; returns at once."""

    def close(self, seconds: float = 5.0) -> None:
        """Deliver what is left, for at most that long."""


class Silence:
    """Progress of the ranks that do not speak."""

    def say(
        self, message: str, data: Mapping[str, Any] | None = None, *, level: Level = "info", kind: Kind = "message"
    ) -> None:
        """Nothing."""

    def close(self, seconds: float = 5.0) -> None:
        """Nothing."""


class Events:
    """Progress of the rank that speaks: `out/events.jsonl`, the standard output, and the control plane.

    A relaunched attempt goes on counting where its log ends and offers all of it again: the control plane keeps
    each `seq` once.
    """

    def __init__(self, out: Path, url: str | None, token: str) -> None:
        self._path = out / EVENTS
        self._events = _whole_lines(self._path)
        self._push = _Push(self._events, url, token) if url else None
        if self._push:
            self._push.start()

    def say(
        self, message: str, data: Mapping[str, Any] | None = None, *, level: Level = "info", kind: Kind = "message"
    ) -> None:
        """Write the event down, print it and leave it to be pushed."""
        event: dict[str, Any] = {"seq": len(self._events) + 1, "created_at": int(time.time()), "level": level}
        event |= {"type": kind, "message": message, "data": dict(data or {})}
        with self._path.open("a") as log:
            log.write(json.dumps(event, allow_nan=False) + "\n")
        print(time.strftime("%H:%M:%S"), message, flush=True)
        self._events.append(event)
        if self._push:
            self._push.wake()

    def close(self, seconds: float = 5.0) -> None:
        """Push what is left, for at most that long."""
        if self._push:
            self._push.finish(seconds)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The events logged so far; a line cut short by a crash is taken out of the file."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    return [json.loads(line) for line in whole]


class _Push(threading.Thread):
    """Sends the list's events in order, from the first that was not acknowledged."""

    def __init__(self, events: list[dict[str, Any]], url: str, token: str) -> None:
        super().__init__(name="events", daemon=True)
        self._events = events
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._news = threading.Event()
        self._deadline: float | None = None

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    def finish(self, seconds: float) -> None:
        """Send the rest until the deadline."""
        self._deadline = time.monotonic() + seconds
        self._news.set()
        self.join(seconds)

    def run(self) -> None:
        acknowledged, pause = 0, FIRST_PAUSE
        with httpx.Client(headers=self._headers, timeout=10.0) as client:
            while True:
                if acknowledged == len(self._events):
                    if self._deadline is not None:
                        return
                    self._news.wait()
                    self._news.clear()
                    continue
                batch = self._events[acknowledged : acknowledged + BATCH]
                status = self._post(client, batch)
                if status in UNWANTED:
                    return
                if status is not None and status < 300:
                    acknowledged, pause = acknowledged + len(batch), FIRST_PAUSE
                elif self._past(pause):
                    return
                else:
                    pause = min(2 * pause, LONGEST_PAUSE)

    def _post(self, client: httpx.Client, batch: list[dict[str, Any]]) -> int | None:
        try:
            return client.post(self._url, json={"events": batch}).status_code
        except httpx.TransportError:
            return None  # the control plane is away: tried again after a pause

    def _past(self, pause: float) -> bool:
        """Wait before the next try, less once the run has ended; whether its deadline has passed."""
        wake = time.monotonic() + pause
        while time.monotonic() < wake and self._deadline is None:
            time.sleep(0.05)
        if self._deadline is None:
            return False
        time.sleep(0.2)
        return time.monotonic() > self._deadline
