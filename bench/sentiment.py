"""Word lists as rewards, and where in a text their words lie."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Lexicon = Mapping[str, float]
WORD = re.compile(r"[a-z'-]+")
#: a token is listed by its mean mask from so many occurrences on
OFTEN = 20


def read_lexicon(path: Path) -> dict[str, float]:
    """Tab-separated lines of a word and its worth; further columns are not read."""
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {row[0]: float(row[1]) for row in rows}


def without(lexicon: Lexicon, other: Lexicon) -> dict[str, float]:
    """The words that the other does not list."""
    return {word: worth for word, worth in lexicon.items() if word not in other}


def worth(text: str, lexicon: Lexicon) -> float:
    """Sum over the words."""
    return sum(lexicon.get(word, 0) for word in WORD.findall(text.lower()))


def variety(text: str) -> float:
    """Share of the words that are different ones; 0 of a text without words."""
    words = WORD.findall(text.lower())
    return len(set(words)) / len(words) if words else 0.0


def places(tokens: Sequence[str], lexicon: Lexicon) -> set[int]:
    """The tokens that spell, at least in part, a word of the list whose worth is not 0."""
    text, spans = "".join(tokens), list[tuple[int, int]]()
    for token in tokens:
        begin = spans[-1][1] if spans else 0
        spans.append((begin, begin + len(token)))
    found = [m.span() for m in WORD.finditer(text.lower()) if lexicon.get(m.group(), 0)]
    return {i for i, (a, b) in enumerate(spans) if any(a < end and begin < b for begin, end in found)}


def lit(examples: Iterable[Mapping[str, Any]], column: str, lexicon: Lexicon) -> dict[str, Any]:
    """What a mask of `token_masks.json` weighs: means on and off the list's words, and the tokens at both ends."""
    values: dict[bool, list[float]] = {True: [], False: []}
    by_token: dict[str, list[float]] = defaultdict(list)
    for answer in _answers(examples):
        on = places(answer["tokens"], lexicon)
        for place, (token, value) in enumerate(zip(answer["tokens"], answer[column], strict=True)):
            values[place in on].append(value)
            by_token[token].append(value)
    both = values[True] + values[False]
    often = sorted((mean(seen), token) for token, seen in by_token.items() if len(seen) >= OFTEN)
    return {
        "mean": mean(both),
        "density": mean(float(value > 0) for value in both),
        "on_words": mean(values[True]),
        "off_words": mean(values[False]),
        "tokens_on_words": len(values[True]),
        "tokens": len(both),
        "highest": [[token, round(value, 4)] for value, token in often[:-11:-1]],
        "lowest": [[token, round(value, 4)] for value, token in often[:10]],
    }


def _answers(examples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for example in examples:
        yield from (example["chosen"], example["rejected"])
