"""Preference files: a JSON object per line, in OpenAI's shape or TRL's, read into frozen pairs. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 16 * 2**20
ROLES = ("system", "developer", "user", "assistant", "tool")
#: OpenAI's names for the two answers, and the ones its older files use
PREFERRED = ("preferred_output", "preferred_completion")
NON_PREFERRED = ("non_preferred_output", "non_preferred_completion")

Message = Mapping[str, Any]
#: plain text, a conversation for the chat template, or token ids taken as they are
Part = str | tuple[Message, ...] | tuple[int, ...]


class BadLine(ValueError):
    """A line that is no preference pair; the text names the line and the field."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True)
class Pair:
    """A prompt with its preferred and its rejected answer, all three in the same form."""

    line: int  #: counted from 1
    prompt: Part
    chosen: Part
    rejected: Part
    tools: tuple[Message, ...] | None = None


def read_pairs(path: Path) -> Iterator[Pair]:
    """The file's pairs, one at a time; blank lines are passed over.

    Raises BadLine at the first line that is none, and for a file without any.
    """
    number = 0
    found = False
    with path.open("rb") as source:
        while raw := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            text = _text(number, raw)
            if text.strip():
                found = True
                yield _pair(number, text)
    if not found:
        raise BadLine(1, "the file holds no preference pair")


def check_pairs(path: Path) -> int:
    """How many pairs the file holds; BadLine as in `read_pairs`. Holds one line in memory at a time."""
    return sum(1 for _ in read_pairs(path))


def _text(number: int, raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(number, f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(number, f"the text is not UTF-8 (byte {error.start + 1} of the line)") from error


def _pair(number: int, text: str) -> Pair:
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise _Wrong("not a JSON object")
        return _openai(number, row) if "input" in row or _first(row, PREFERRED) else _trl(number, row)
    except json.JSONDecodeError as error:
        raise BadLine(number, f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadLine(number, "the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadLine(number, str(error)) from error


class _Wrong(ValueError):
    pass


def _openai(number: int, row: Mapping[str, Any]) -> Pair:
    source = _required(row, "input")
    if not isinstance(source, dict):
        raise _Wrong("input must be an object with messages")
    tools = source.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise _Wrong("input.tools must be a list of objects")
    return Pair(
        number,
        _prompt_messages(_required(source, "messages", "input.messages"), "input.messages"),
        _answer_messages(row, PREFERRED),
        _answer_messages(row, NON_PREFERRED),
        tuple(tools) if tools else None,
    )


def _trl(number: int, row: Mapping[str, Any]) -> Pair:
    if "prompt" not in row and "chosen" not in row:
        raise _Wrong("input is missing")
    prompt, chosen, rejected = (_required(row, name) for name in ("prompt", "chosen", "rejected"))
    if isinstance(prompt, str):
        return Pair(number, _string(prompt, "prompt"), _answer(chosen, "chosen"), _answer(rejected, "rejected"))
    if not isinstance(prompt, list) or not prompt:
        raise _Wrong("prompt must be a text, a list of messages or a list of token ids, and not empty")
    if isinstance(prompt[0], dict):
        chosen, rejected = (_answer_messages(row, (name,)) for name in ("chosen", "rejected"))
        return Pair(number, _prompt_messages(prompt, "prompt"), chosen, rejected)
    ids = [_token_ids(part, name) for name, part in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected))]
    return Pair(number, ids[0], ids[1], ids[2])


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _required(row: Mapping[str, Any], name: str, shown: str | None = None) -> Any:
    if row.get(name) is None:
        raise _Wrong(f"{shown or name} is missing")
    return row[name]


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"{name} must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Wrong(f"{name} holds half of a surrogate pair, which is no character") from error
    return value


def _answer(value: Any, name: str) -> str:
    if not _string(value, name):
        raise _Wrong(f"{name} is empty")
    return str(value)


def _token_ids(value: Any, name: str) -> tuple[int, ...]:
    right = isinstance(value, list) and value and all(type(item) is int and 0 <= item < 2**31 for item in value)
    if not right:
        raise _Wrong(f"{name} must be a list of token ids (whole numbers from 0), and not empty")
    return tuple(value)


def _prompt_messages(value: Any, name: str) -> tuple[Message, ...]:
    messages = _messages(value, name)
    if messages[-1]["role"] == "assistant":
        raise _Wrong(f"{name} must end before the assistant's answer, not with it")
    return messages


def _answer_messages(row: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Message, ...]:
    name = _first(row, names) or names[0]
    messages = _messages(_required(row, name), name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise _Wrong(f"{name} must be one message of the assistant")
    return messages


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _Wrong(f"{name} must be a list of messages, and not empty")
    return tuple(_message(item, f"{name}[{place}]") for place, item in enumerate(value))


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise _Wrong(f"{name} must be a message with role and content")
    if value.get("role") not in ROLES:
        raise _Wrong(f"{name}.role must be one of {', '.join(ROLES)}")
    if value.get("content") is None and value.get("tool_calls"):
        return {**value, "content": ""}
    return {**value, "content": _content(_required(value, "content", f"{name}.content"), f"{name}.content")}


def _content(value: Any, name: str) -> str:
    if not isinstance(value, list):
        return _string(value, name)
    for place, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise _Wrong(f"{name}[{place}] must be a text part; other kinds are not served here")
    return "".join(_string(part.get("text"), f"{name}[{place}].text") for place, part in enumerate(value))
