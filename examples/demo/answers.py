"""Answers of a model to the prompts of pairs, over the OpenAI routes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI

from trainers.data.fields import Part
from trainers.data.preference import Pair

#: requests under way at once: the engine batches them
TOGETHER = 8


def sample(
    client: OpenAI, model: str, pairs: Sequence[Pair], *, each: int, seed: int = 0, max_tokens: int = 96
) -> list[list[str]]:
    """`each` answers at temperature 1 to every pair's prompt; the same seed asks for the same draws.

    The engine draws the i-th answer of a request from its seed + i: requests `each` apart share none.
    """

    def ask(place: int) -> list[str]:
        wanted = {"model": model, "n": each, "seed": seed + each * place, "temperature": 1.0, "max_tokens": max_tokens}
        return _answers(client, pairs[place].prompt, wanted)

    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(ask, range(len(pairs))))


def text(part: Part) -> str:
    """A prompt or an answer as a person reads it."""
    if isinstance(part, str):
        return part
    return " ".join(str(piece["content"] if isinstance(piece, dict) else piece) for piece in part)


def is_conversation(part: Part) -> bool:
    """Whether it is made of messages."""
    return not isinstance(part, str) and isinstance(part[0], dict)


def _answers(client: OpenAI, prompt: Part, wanted: dict[str, Any]) -> list[str]:
    given: Any = prompt if isinstance(prompt, str) else list(prompt)
    if is_conversation(prompt):
        return [
            choice.message.content or "" for choice in client.chat.completions.create(messages=given, **wanted).choices
        ]
    return [choice.text for choice in client.completions.create(prompt=given, **wanted).choices]
