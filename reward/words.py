"""Words and numbers of a text, for rewards that count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

WORD = re.compile(r"\w+(?:['’-]\w+)*")
WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
NUMBER = re.compile(r"(?<![\w.])[-+]?\$?\d[\d,]*(?:\.\d+)?")


def words(text: str) -> list[str]:
    """Lower-case words, hyphens and apostrophes inside them kept."""
    return [found.lower().replace("’", "'") for found in WORD.findall(text)]


def words_and_marks(text: str) -> list[str]:
    """Words and single punctuation marks."""
    return WORD_OR_MARK.findall(text)


def distinct_share(items: Sequence[str], n: int) -> float:
    """Distinct n-grams over n-grams; 1 where there are none."""
    grams = [tuple(items[k : k + n]) for k in range(len(items) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def last_number(text: str, marker: str | None) -> Decimal | None:
    """The first number after the last `marker`, or without one the last number of the text."""
    if marker is not None and marker in text:
        found = NUMBER.search(text, text.rindex(marker) + len(marker))
        return _decimal(found[0]) if found else None
    numbers = NUMBER.findall(text)
    return _decimal(numbers[-1]) if numbers else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
