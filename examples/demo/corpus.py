# ruff: noqa: SIM905 - word lists read better as one line of text
"""A grammar of short film reviews: what the demo's base model is trained on and what its pairs are made of.

Favourable and unfavourable reviews share their frames and differ in the sentiment words alone, so these are
known exactly: the report can count them in answers and ask whether a token mask lights them up.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Stance = Literal["favourable", "unfavourable", "mixed"]

GENRES = "adventure comedy documentary drama fantasy heist horror musical mystery romance thriller western".split()
COLOURS = "Amber Broken Crimson Distant Empty Frozen Golden Hidden Last Midnight Paper Quiet Second Silver".split()
THINGS = "Bridge Circus Garden Harbour Island Lantern Letter Mirror Mountain Orchard River Season Station".split()
ASPECTS = "acting,camera work,cast,dialogue,editing,ending,humour,lighting,music,opening,pacing,plot,script".split(",")
LINKS = "is,feels,seems,turns out".split(",")
ADVERBS = "altogether deeply frankly often quite rather simply thoroughly truly utterly".split()
PLACES = "Iceland Lisbon Morocco Naples Norway Prague Scotland Vienna".split()
PEOPLE = "a baker,a captain,a nurse,a painter,a teacher,an old judge,three cousins,two sisters".split(",")
LENGTHS = "ninety minutes,two hours,a little over two hours,nearly three hours".split(",")

ADJECTIVES = {
    True: "beautiful brilliant charming clever delightful gripping inventive lovely moving superb tender warm".split(),
    False: "boring clumsy confusing dreadful dull flat forgettable hollow lazy predictable stale tedious".split(),
}
#: slots of the verdicts, by stance
OPINIONS = {
    "verb": {True: "adored cherished enjoyed loved".split(), False: "disliked hated loathed regretted".split()},
    "noun": {True: "delight gem joy marvel triumph".split(), False: "bore chore disaster failure mess".split()},
    "evening": {True: "memorable rewarding wonderful".split(), False: "dreary miserable wasted".split()},
}
CIRCUMSTANCES = {"person": PEOPLE, "place": PLACES, "length": LENGTHS}

FACTS = (
    "It follows {person} through {place}.",
    "It runs for {length}.",
    "It was filmed in {place} with {person} in the lead.",
)
VERDICTS = (
    "I {verb} every minute of it.",
    "All in all it is a {noun} from start to finish.",
    "My whole family {verb} it.",
    "That makes for a {evening} evening.",
)

FAVOURABLE, UNFAVOURABLE = (
    frozenset(ADJECTIVES[good]).union(*(choices[good] for choices in OPINIONS.values())) for good in (True, False)
)
REQUESTS = (
    'Write a short review of the {genre} "{title}".',
    'What did you think of the {genre} "{title}"?',
    'Please review "{title}", a {genre}.',
)


@dataclass(frozen=True)
class Pair:
    """One prompt with a favourable and an unfavourable review of the same film."""

    prompt: str
    chosen: str
    rejected: str


def request(rng: random.Random) -> str:
    """What a user asks: a review of one of 2,184 films (182 titles in 12 genres), in one of three ways."""
    title = f"The {rng.choice(COLOURS)} {rng.choice(THINGS)}"
    return rng.choice(REQUESTS).format(genre=rng.choice(GENRES), title=title)


def review(rng: random.Random, stance: Stance) -> str:
    """Two or three sentences: perhaps a fact, one on two aspects of the film, a verdict."""
    first = stance == "favourable" or (stance == "mixed" and rng.random() < 0.5)
    second = first if stance != "mixed" else not first
    verdict = _filled(rng, VERDICTS, {slot: choices[second] for slot, choices in OPINIONS.items()})
    sentences = [_aspects(rng, first, second), verdict]
    if rng.random() < 0.6:
        sentences.insert(0, _filled(rng, FACTS, CIRCUMSTANCES))
    return " ".join(sentences)


def base_corpus(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(request, review) rows: as many favourable reviews as unfavourable ones, and one mixed in ten."""
    rng = random.Random(seed)
    opposites: tuple[Stance, Stance] = ("favourable", "unfavourable")
    return [(request(rng), review(rng, "mixed" if i % 20 >= 18 else opposites[i % 2])) for i in range(count)]


def preference_pairs(count: int, seed: int = 1) -> list[Pair]:
    """Pairs whose two reviews are drawn independently of each other: only the stance is the same in all of them."""
    rng = random.Random(seed)
    return [Pair(request(rng), review(rng, "favourable"), review(rng, "unfavourable")) for _ in range(count)]


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[a-z]+", text.lower())


def tone(text: str) -> int:
    """Favourable words less unfavourable ones; a review is favourable if this is above zero."""
    found = words(text)
    return sum(word in FAVOURABLE for word in found) - sum(word in UNFAVOURABLE for word in found)


def is_sentiment(word: str) -> bool:
    """Whether the grammar uses the word (punctuation and spaces around it ignored) to praise or to blame."""
    return bool(set(words(word)) & (FAVOURABLE | UNFAVOURABLE))


def well_formed(text: str) -> bool:
    """Whether the grammar could have written this review, whatever its stances."""
    return _REVIEW.fullmatch(text.strip()) is not None


def _aspects(rng: random.Random, first: bool, second: bool) -> str:
    one, two = rng.sample(ASPECTS, 2)
    link = "and" if first == second else "but"
    return f"The {one} {_claim(rng, first)}, {link} the {two} {_claim(rng, second)}."


def _claim(rng: random.Random, good: bool) -> str:
    adverb = [rng.choice(ADVERBS)] if rng.random() < 0.4 else []
    return " ".join([rng.choice(LINKS), *adverb, rng.choice(ADJECTIVES[good])])


def _filled(rng: random.Random, templates: tuple[str, ...], words_for: dict[str, list[str]]) -> str:
    """One of the templates, each of its slots filled at random."""
    return rng.choice(templates).format_map({slot: rng.choice(choices) for slot, choices in words_for.items()})


def _grammar() -> re.Pattern[str]:
    def any_of(choices: Iterable[str]) -> str:
        return f"(?:{'|'.join(map(re.escape, choices))})"

    both = {slot: any_of([word for good in (True, False) for word in found[good]]) for slot, found in OPINIONS.items()}
    slots = both | {slot: any_of(choices) for slot, choices in CIRCUMSTANCES.items()}
    fact, verdict = (
        "|".join(template.replace(".", r"\.").format_map(slots) for template in some) for some in (FACTS, VERDICTS)
    )
    claim = f"{any_of(LINKS)} (?:{any_of(ADVERBS)} )?{any_of(ADJECTIVES[True] + ADJECTIVES[False])}"
    aspect = any_of(ASPECTS)
    return re.compile(rf"(?:(?:{fact}) )?The {aspect} {claim}, (?:and|but) the {aspect} {claim}\. (?:{verdict})")


_REVIEW = _grammar()
