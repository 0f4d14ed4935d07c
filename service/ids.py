"""Ids of our own: a prefix, the time, chance; they sort by age and cannot be guessed."""

from __future__ import annotations

import secrets
import time


def new(prefix: str) -> str:
    """`<prefix>-<milliseconds><random>`, all hexadecimal."""
    return f"{prefix}-{time.time_ns() // 1_000_000:011x}{secrets.token_hex(8)}"
