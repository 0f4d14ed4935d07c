"""Who is next: priority first, then the tenant that holds least, then age; never past quota or free slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

#: beyond this place a job is told that many wait before it, not how many: a start then changes few rows
TOLD = 20


class Entry(NamedTuple):
    """What the queue needs to know of a job."""

    id: str
    tenant: str
    slots: int
    priority: int
    attempt: int
    created_at: int
    not_before: int
    reason: str | None


@dataclass(frozen=True)
class Room:
    """What there is to give."""

    slots: int
    tenant_slots: int | None  #: of them, at most so many for one tenant

    @property
    def most(self) -> int:
        """Slots of the largest job that can ever run."""
        return self.slots if self.tenant_slots is None else min(self.slots, self.tenant_slots)


@dataclass(frozen=True)
class Plan:
    """What to do about the queue now."""

    start: list[Entry]
    reasons: dict[str, str]  #: of every job that stays, by id
    impossible: list[Entry]


def plan(waiting: Iterable[Entry], holding: Sequence[Entry], room: Room, now: int) -> Plan:
    """Start what fits. The first that does not fit keeps its place: smaller ones do not starve it."""
    turns = _Turns(room, holding)
    impossible, ready = [], []
    for entry in waiting:
        if entry.slots > room.most:
            impossible.append(entry)
        elif entry.not_before > now:
            turns.reasons[entry.id] = entry.reason or "its last attempt has just failed"
        else:
            ready.append(entry)
    queues: dict[tuple[int, str], list[tuple[int, str, Entry]]] = defaultdict(list)
    for entry in ready:
        queues[-entry.priority, entry.tenant].append((entry.created_at, entry.id, entry))
    for queue in queues.values():
        heapify(queue)
    turns.take([(rank, turns.held[tenant], queue[0][:2], tenant, queue) for (rank, tenant), queue in queues.items()])
    return Plan(turns.start, turns.reasons, impossible)


class _Turns:
    """Tenants take turns until nothing fits; each turn is (priority, slots held, age, tenant, its queue)."""

    def __init__(self, room: Room, holding: Sequence[Entry]) -> None:
        self.room = room
        self.holders = list(holding)
        self.held: dict[str, int] = defaultdict(int)
        for entry in holding:
            self.held[entry.tenant] += entry.slots
        self.free = room.slots - sum(self.held.values())
        self.start: list[Entry] = []
        self.reasons: dict[str, str] = {}
        self.place = 0

    def take(self, turns: list[tuple[int, int, tuple[int, str], str, list[tuple[int, str, Entry]]]]) -> None:
        """Go through all queues in order; every job is started or told why not."""
        heapify(turns)
        virtual: dict[str, int] = defaultdict(int)
        while turns:
            rank, counted, _, tenant, queue = heappop(turns)
            share = self.held[tenant] + virtual[tenant]
            if counted != share:  # it has started others since: its turn comes later
                heappush(turns, (rank, share, queue[0][:2], tenant, queue))
                continue
            entry = heappop(queue)[2]
            if not self._started(entry):
                virtual[tenant] += entry.slots  # the order in which they would start
            if queue:
                heappush(turns, (rank, self.held[tenant] + virtual[tenant], queue[0][:2], tenant, queue))

    def _started(self, entry: Entry) -> bool:
        quota = self.room.tenant_slots
        if quota is not None and self.held[entry.tenant] + entry.slots > quota:
            self.reasons[entry.id] = (
                f"needs {entry.slots} slots, your quota is {quota} and your jobs hold {self.held[entry.tenant]}"
            )
            return False
        if self.place or entry.slots > self.free:
            self.reasons[entry.id] = self._why(entry)
            self.place += 1
            return False
        self.start.append(entry)
        self.holders.append(entry)
        self.held[entry.tenant] += entry.slots
        self.free -= entry.slots
        return True

    def _why(self, entry: Entry) -> str:
        if self.place > TOLD:
            return f"needs {entry.slots} of {self.room.slots} slots; more than {TOLD} jobs wait before it"
        own = [other.id for other in self.holders if other.tenant == entry.tenant]
        holders = ", ".join(own + ["other tenants"] * (len(own) < len(self.holders)))
        held = f", held by {holders}" if holders else ""
        ahead = f"; {self.place} {'job waits' if self.place == 1 else 'jobs wait'} before it" if self.place else ""
        return f"needs {entry.slots} of {self.room.slots} slots{held}{ahead}"
