"""Tokens as they read in their text: a token decoded alone may lose the space before it."""

from __future__ import annotations

from collections.abc import Sequence


def pieces(text: str, alone: Sequence[str]) -> list[str]:
    """The end of `text` cut into one piece per token, given each token decoded alone; pieces join to that end.

    Spaces between two tokens go to the later one. Where a token is not found in the text (half a character),
    the tokens are returned as they are alone.
    """
    found: list[str] = []
    rest = text
    for place in range(len(alone) - 1, -1, -1):
        token = alone[place]
        if not rest.endswith(token):
            return list(alone)
        rest = rest.removesuffix(token)
        bare = rest.rstrip(" ")
        gap = rest[len(bare) :] if place == 0 or _ends(bare, rest, alone[place - 1]) else ""
        rest = rest.removesuffix(gap)
        found.append(gap + token)
    return found[::-1]


def _ends(bare: str, rest: str, before: str) -> bool:
    """Whether the token before is found only once the spaces are gone."""
    return not rest.endswith(before) and bare.endswith(before)
