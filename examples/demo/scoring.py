"""Answers scored by the density ratio of the tuned policy over its base, through `POST /v1/rewards`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from examples.demo.answers import is_conversation
from examples.demo.control_plane import ControlPlane
from reward.spec import Score, ScoreList
from trainers.data.fields import Part
from trainers.data.preference import Pair


class Refused(Exception):
    """The service did not score; the message is its sentence."""


def score_pairs(plane: ControlPlane, pairs: Sequence[Pair], *, strong: str, weak: str) -> list[tuple[Score, Score]]:
    """Each pair's (chosen, rejected) scores, per token. Raises Refused."""
    inputs = [_input(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    body = {
        "model": {"type": "density_ratio", "strong": strong, "weak": weak},
        "input": inputs,
        "include": ["token_scores"],
    }
    headers = {"Authorization": f"Bearer {plane.key}"}
    answer = httpx.post(f"{plane.url}/v1/rewards", json=body, headers=headers, timeout=300)
    if answer.is_error:
        raise Refused(answer.json()["error"]["message"])
    scores = ScoreList.model_validate(answer.json()).data
    return list(zip(scores[::2], scores[1::2], strict=True))


def _input(prompt: Part, answer: Part) -> dict[str, Any]:
    if is_conversation(prompt):
        return {"messages": [*prompt, *answer]}
    return {"prompt": prompt, "response": answer}
