"""Prompt files: a JSON object per line with `prompt` (text or messages), `messages`, or a preference pair's prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.records import MAX_LINE_BYTES, BadLine

ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked."""

    line: int  #: counted from 1
    prompt: str | tuple[dict[str, str], ...]
    reference: str | None = None  #: the right answer, for rewards that compare with one


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The file's prompts, one at a time; blank lines are passed over. Raises BadLine, also for a file without any."""
    number, found = 0, False
    with path.open("rb") as source:
        while raw := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            if raw.strip():
                found = True
                yield _prompt(number, raw)
    if not found:
        raise BadLine(1, "the file holds no prompt")


def _prompt(line: int, raw: bytes) -> Prompt:
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(line, f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        row = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise BadLine(line, f"the text is not UTF-8 (byte {error.start + 1} of the line)") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadLine(line, f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadLine(line, "not a JSON object")
    source = row["input"] if isinstance(row.get("input"), dict) else row
    given = source.get("prompt", source.get("messages"))
    reference = row.get("reference")
    return Prompt(line, _checked(line, given), None if reference is None else str(reference))


def _checked(line: int, given: Any) -> str | tuple[dict[str, str], ...]:
    if isinstance(given, str) and given:
        _characters(line, given)
        return given
    if not isinstance(given, list) or not given:
        raise BadLine(line, "prompt must be a text or a list of messages, and not empty")
    turns = tuple(_turn(line, k, turn) for k, turn in enumerate(given))
    if turns[-1]["role"] == "assistant":
        raise BadLine(line, "the prompt must end before the assistant's answer, not with it")
    return turns


def _turn(line: int, k: int, turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        raise BadLine(line, f"message {k} must have a role ({', '.join(ROLES)}) and a text as content")
    _characters(line, turn["content"])
    return {"role": "system" if turn["role"] == "developer" else turn["role"], "content": turn["content"]}


def _characters(line: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadLine(line, "the text holds half of a surrogate pair, which is no character") from error
