"""Learned masks that are zero on every token: no gradient brings them back, and `mask_init: paper` may start so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: metrics events in a row
STRETCH = 5
DENSITIES = {"mask/density": "reward", "mask/kl_density": "KL"}


def first_death(history: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning where a mask has been all zero in the last STRETCH records, for the first time."""
    died = [name for name in DENSITIES if _has_just_died(history, name)]
    if not died:
        return None
    masks = " and ".join(DENSITIES[name] for name in died)
    return (
        f"At step {history[-1]['step']} the {masks} mask has been zero on every token for {STRETCH} metrics events: "
        "it weighs nothing and has no gradient; mask_init one or a lower L1 price would keep it alive"
    )


def _has_just_died(history: Sequence[Mapping[str, Any]], name: str) -> bool:
    return _is_dead(history, name) and not any(_is_dead(history[:end], name) for end in range(STRETCH, len(history)))


def _is_dead(history: Sequence[Mapping[str, Any]], name: str) -> bool:
    last = history[-STRETCH:]
    return len(last) == STRETCH and all(record.get(name, 1.0) == 0 for record in last)
