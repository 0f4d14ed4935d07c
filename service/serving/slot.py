"""One base model's place among the engines: at most one engine, started once for all who wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reward.spec import Endpoint
from service.errors import Invalid, Unavailable
from service.serving import children
from service.serving.command import BASE
from service.serving.engine import Engine, EngineSettings

#: a failed start is told to all who ask within this time, not tried again by each
FAILURE_SECONDS = 5.0
#: an engine just handed out is in use although no request has reached it yet
SETTLE_SECONDS = 15.0

State = Literal["starting", "ready", "failed", "stopped"]


@dataclass(frozen=True)
class Servable:
    """A model as an engine sees it: weights with an engine of their own, or an adapter on such."""

    id: str  #: public
    base: str  #: public id of the base model or merged policy whose engine it is
    base_path: Path
    adapter: str | None = None  #: the immutable name inside the engine, e.g. `ftjob-abc-a1`
    adapter_path: Path | None = None


@dataclass(frozen=True)
class EngineStatus:
    """What is seen of the engine of a base model or merged policy."""

    base: str
    state: State
    reason: str | None  #: why it failed
    adapters: tuple[str, ...]
    pid: int | None


class Slot:
    """Starts, revives and empties the engine of one model folder; every change happens under `lock`."""

    def __init__(self, base: str, settings: EngineSettings) -> None:
        self.base = base
        self.settings = settings
        self.lock = threading.Lock()
        self.engine: Engine | None = None
        self.adapters: frozenset[str] = frozenset()
        self.starting = False
        self.last_used = 0.0
        self.failure: tuple[float, str] | None = None

    @property
    def occupied(self) -> bool:
        """Whether an engine runs here or is about to."""
        return self.starting or self.engine is not None

    def endpoint(self, servable: Servable, reserve: Callable[[], None], cancelled: Callable[[], bool]) -> Endpoint:
        """Where the model answers; its engine is started and its adapter loaded if need be.

        `reserve` sets `starting` once there is room. Raises Invalid or Unavailable.
        """
        with self.lock:
            engine = self.engine
            if engine is None or not engine.alive:
                engine = self._start(servable.base_path, reserve, cancelled)
            if servable.adapter and servable.adapter_path and servable.adapter not in self.adapters:
                engine.load(servable.adapter, servable.adapter_path)
                self.adapters |= {servable.adapter}
            self.last_used = time.monotonic()
            return Endpoint(url=engine.url, name=servable.adapter or BASE, key=engine.key)

    def unload(self, adapter: str) -> None:
        """Drop an adapter if it is loaded."""
        with self.lock:
            if self.engine is not None and self.engine.alive and adapter in self.adapters:
                self.engine.unload(adapter)
            self.adapters -= {adapter}

    def stop(self) -> None:
        """End the engine, after its start if it is starting."""
        with self.lock:
            self._empty()

    def stop_if_idle(self) -> bool:
        """End the engine if nobody uses it; whether the slot is empty now. Never waits for the lock."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if self.engine is not None and self.engine.alive and self._in_use(self.engine):
                return False
            self._empty()
            return True
        finally:
            self.lock.release()

    def status(self) -> EngineStatus:
        """A look without the lock: a start that hangs must not hide."""
        engine, failure = self.engine, self.failure
        if self.starting:
            return EngineStatus(self.base, "starting", None, (), None)
        if engine is not None and engine.alive:
            return EngineStatus(self.base, "ready", None, tuple(sorted(self.adapters)), engine.process.pid)
        if engine is not None:
            reason = f"the engine has ended: {children.last_words(engine.folder)}; the next request starts it again"
            return EngineStatus(self.base, "failed", reason, (), None)
        return EngineStatus(self.base, "failed" if failure else "stopped", failure and failure[1], (), None)

    def _in_use(self, engine: Engine) -> bool:
        return time.monotonic() - self.last_used < SETTLE_SECONDS or engine.busy

    def _start(self, path: Path, reserve: Callable[[], None], cancelled: Callable[[], bool]) -> Engine:
        if self.failure and time.monotonic() - self.failure[0] < FAILURE_SECONDS:
            raise Unavailable(self.failure[1])
        self._empty()
        reserve()
        try:
            self.engine = Engine.start(self.base, path, self.settings, cancelled)
        except (Invalid, Unavailable) as refusal:
            self.failure = (time.monotonic(), refusal.message)
            raise
        finally:
            self.starting = False
        self.failure = None
        return self.engine

    def _empty(self) -> None:
        if self.engine is not None:
            self.engine.stop()
        self.engine, self.adapters = None, frozenset()
