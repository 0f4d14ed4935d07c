"""Prompt files: a JSON object per line with `prompt` (text or messages), `messages`, or a preference pair's prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainers.data import fields, lines
from trainers.data.fields import Message
from trainers.data.lines import Row, Wrong

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked."""

    line: int  #: counted from 1
    prompt: str | tuple[dict[str, str], ...]
    reference: str | None = None  #: the right answer, for rewards that compare with one


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The file's prompts, one at a time. Raises BadLine as `lines.records` does."""
    return lines.records(path, _parse, "prompt")


def plain(messages: tuple[Message, ...], name: str) -> tuple[dict[str, str], ...]:
    """Messages of role and content alone; Wrong for those of tools."""
    return tuple(_plain(turn, f"{name}[{place}]") for place, turn in enumerate(messages))


def _plain(turn: Message, name: str) -> dict[str, str]:
    if turn["role"] not in ROLES or turn.get("tool_calls"):
        raise Wrong(f"{name} is about tools; prompts with tools are not served here")
    return {"role": ROLES[turn["role"]], "content": turn["content"]}


def _parse(number: int, row: Row) -> Prompt:
    reference = row.get("reference")
    return Prompt(number, _asked(row), None if reference is None else str(reference))


def _asked(row: Row) -> str | tuple[dict[str, str], ...]:
    source = row["input"] if isinstance(row.get("input"), dict) else row
    value = source.get("prompt", source.get("messages"))
    if isinstance(value, str) and value:
        return fields.text(value, "prompt")
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise Wrong("prompt must be a text or a list of messages, and not empty")
    return plain(fields.prompt_messages(value, "prompt"), "prompt")
