"""All engines: one per base model or merged policy, on demand; of too many the least recently used idle one stops."""

from __future__ import annotations

import threading
import time

from reward.spec import Endpoint
from service.errors import Unavailable
from service.serving import children
from service.serving.engine import EngineSettings
from service.serving.slot import EngineStatus, Servable, Slot

__all__ = ["EngineStatus", "Engines", "Servable"]

#: how long a start waits for one of the busy engines to become idle
ROOM_SECONDS = 60.0
LOOK_SECONDS = 0.2


class Engines:
    """Thread-safe. Engines of an earlier control plane over the same home are ended at once."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._slots: dict[str, Slot] = {}
        self._registering = threading.Lock()
        self._room = threading.Lock()
        self._closed = threading.Event()
        for folder in (settings.home / "engines").glob("*/"):
            children.end_orphan(folder)

    def endpoint(self, servable: Servable) -> Endpoint:
        """Where the model answers. Blocks until its engine is ready and its adapter loaded.

        Callers of one engine share one start; a dead engine is started again.
        Raises Invalid if the model cannot be served, Unavailable with a sentence if the engine is not to be had.
        """
        slot = self._slot(servable.base)
        return slot.endpoint(servable, lambda: self._reserve(slot), self._closed.is_set)

    def unload(self, servable: Servable) -> None:
        """Stop serving a policy: its adapter leaves the engine, which stays; an engine of its own ends."""
        if servable.adapter is None:
            self.forget(servable.base)
        elif slot := self._slots.get(servable.base):
            slot.unload(servable.adapter)

    def stop(self, base: str) -> None:
        """Stop a base model's engine; the next request starts it again."""
        slot = self._slots.get(base)
        if slot is not None:
            slot.stop()

    def forget(self, base: str) -> None:
        """Stop the engine of weights that are no longer served."""
        with self._registering:
            slot = self._slots.pop(base, None)
        if slot is not None:
            slot.stop()

    def status(self) -> list[EngineStatus]:
        """Every engine asked for since the start, by base model."""
        return [slot.status() for _, slot in sorted(self._slots.items())]

    def close(self) -> None:
        """Stop all engines, those that are starting too, and start none any more."""
        self._closed.set()
        for slot in list(self._slots.values()):
            slot.stop()

    def _slot(self, base: str) -> Slot:
        with self._registering:
            return self._slots.setdefault(base, Slot(base, self._settings))

    def _reserve(self, slot: Slot) -> None:
        """Mark the slot as starting once fewer than `max_engines` others are occupied."""
        deadline = time.monotonic() + ROOM_SECONDS
        while not self._closed.is_set():
            with self._room:
                if self._has_room(slot):
                    slot.starting = True
                    return
            if time.monotonic() > deadline:
                most = self._settings.max_engines
                raise Unavailable(f"all {most} engines are busy; {slot.base} needs one of its own: try again later")
            time.sleep(LOOK_SECONDS)
        raise Unavailable("the service is stopping")

    def _has_room(self, slot: Slot) -> bool:
        others = [other for other in list(self._slots.values()) if other is not slot and other.occupied]
        oldest_first = sorted(others, key=lambda other: other.last_used)
        surplus = len(others) - self._settings.max_engines + 1
        return surplus <= 0 or any(other.stop_if_idle() for other in oldest_first)
