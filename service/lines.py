"""What a line of a training file may be before anything parses it: no longer and no deeper than can be taken."""

from __future__ import annotations

from pathlib import Path

from trainers.data.lines import BadLine

OPENING, CLOSING, QUOTE, ESCAPE = frozenset(b"[{"), frozenset(b"]}"), ord('"'), ord("\\")


def check(path: Path, *, line_bytes: int, nesting: int) -> None:
    """Raises BadLine for the first line that is too long or too deep; no line is read further than it may be long."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(line_bytes + 1):
            number += 1
            if len(line) > line_bytes and not line.endswith(b"\n"):
                raise BadLine(number, f"is longer than {line_bytes} bytes")
            # most lines have fewer brackets than they may be deep, and need no closer look
            if line.count(b"[") + line.count(b"{") > nesting and depth(line) > nesting:
                raise BadLine(number, f"is nested deeper than {nesting} levels")


def depth(line: bytes) -> int:
    """How deep the brackets outside of strings go."""
    deepest = level = 0
    inside = escaped = False
    for byte in line:
        if inside:
            inside = escaped or byte != QUOTE
            escaped = byte == ESCAPE and not escaped
        elif byte == QUOTE:
            inside = True
        elif byte in OPENING:
            level += 1
            deepest = max(deepest, level)
        elif byte in CLOSING:
            level -= 1
    return deepest
