"""Training files: a JSON object per line, each turned into a record or refused by number. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

MAX_LINE_BYTES = 16 * 2**20

Row = Mapping[str, Any]
Record = TypeVar("Record")


class BadLine(ValueError):
    """A line that cannot be trained on; the text names the line and the field."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


class Wrong(ValueError):
    """A field that is not what it must be; the text names it."""


def records(path: Path, parse: Callable[[int, Row], Record], noun: str) -> Iterator[Record]:
    """`parse(number, row)` of each line, one at a time; blank lines are passed over.

    Raises BadLine at the first line that is no record, and for a file without any `noun`.
    """
    number = 0
    found = False
    with path.open("rb") as source:
        while raw := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            text = _text(number, raw)
            if text.strip():
                found = True
                yield _record(number, text, parse)
    if not found:
        raise BadLine(1, f"the file holds no {noun}")


def _text(number: int, raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(number, f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(number, f"the text is not UTF-8 (byte {error.start + 1} of the line)") from error


def _record(number: int, text: str, parse: Callable[[int, Row], Record]) -> Record:
    try:
        row = json.loads(text)
        if not isinstance(row, dict):
            raise Wrong("not a JSON object")
        return parse(number, row)
    except json.JSONDecodeError as error:
        raise BadLine(number, f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadLine(number, "the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadLine(number, str(error)) from error
