"""What the weak models said, by content: model digest, dtype, token ids."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from reward.endpoints import Facts


class Sized(Protocol):
    """Something with a number of tokens."""

    def __len__(self) -> int:
        """Tokens."""


T = TypeVar("T", bound=Sized)


@dataclass
class Cache(Generic[T]):
    """At most `tokens` tokens' worth, the least recently used goes first."""

    tokens: int = 1_000_000
    hits: int = 0
    misses: int = 0
    held: int = 0
    kept: OrderedDict[bytes, T] = field(default_factory=OrderedDict)

    def get(self, facts: Facts, ids: Sequence[int]) -> T | None:
        """What was kept for these ids under this model."""
        found = self.kept.get(key := _key(facts, ids))
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self.kept.move_to_end(key)
        return found

    def put(self, facts: Facts, ids: Sequence[int], value: T) -> None:
        """Keep it."""
        key = _key(facts, ids)
        if key in self.kept or len(value) > self.tokens:
            return
        self.kept[key] = value
        self.held += len(value)
        while self.held > self.tokens:
            _, gone = self.kept.popitem(last=False)
            self.held -= len(gone)


def _key(facts: Facts, ids: Sequence[int]) -> bytes:
    return hashlib.sha256(f"{facts.digest}\0{facts.dtype}\0".encode() + array("q", ids).tobytes()).digest()
