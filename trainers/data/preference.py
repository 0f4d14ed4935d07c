"""Preference files, in OpenAI's shape or TRL's. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainers.data import fields, lines
from trainers.data.fields import Message, Part
from trainers.data.lines import Row, Wrong
from trainers.data.marks import PLAIN, Marks, Said, said, said_message

NOUN = "preference pair"
SHAPE = 'a line is {"input", "preferred_output", "non_preferred_output"} or {"prompt", "chosen", "rejected"}'
#: OpenAI's names for the two answers, and the ones its older files use
PREFERRED = ("preferred_output", "preferred_completion")
NON_PREFERRED = ("non_preferred_output", "non_preferred_completion")


@dataclass(frozen=True)
class Pair:
    """A prompt with its preferred and its rejected answer, all three in the same form."""

    line: int  #: counted from 1
    prompt: Part
    chosen: Part
    rejected: Part
    tools: tuple[Message, ...] | None = None
    marks: tuple[Marks, Marks] = (PLAIN, PLAIN)  #: of chosen and rejected
    columns: Mapping[str, float] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[Said, Said]:
        """Chosen, rejected."""
        return Said(self.chosen, self.marks[0]), Said(self.rejected, self.marks[1])


def read_pairs(path: Path) -> Iterator[Pair]:
    """The file's pairs, one at a time. Raises BadLine as `lines.records` does."""
    return lines.records(path, parse, NOUN)


def parse(number: int, row: Row) -> Pair:
    """A line's pair; Wrong names the field at fault."""
    openai = "input" in row or any(name in row for name in PREFERRED)
    if not openai and "prompt" not in row and "chosen" not in row:
        raise Wrong(f"input is missing: {SHAPE}")
    prompt, chosen, rejected, tools = _openai(row) if openai else _trl(row)
    columns = fields.columns(row)
    if row.get("margin") is not None:
        columns["margin"] = fields.number(row["margin"], "margin", least=-fields.LARGEST)
    return Pair(number, prompt, chosen.part, rejected.part, tools, (chosen.marks, rejected.marks), columns)


Asked = tuple[Part, Said, Said, tuple[Message, ...] | None]


def _openai(row: Row) -> Asked:
    source = fields.required(row, "input")
    if not isinstance(source, dict):
        raise Wrong("input must be an object with messages")
    tools = fields.tools(source, "input.tools")
    messages = fields.prompt_messages(fields.required(source, "messages", "input.messages"), "input.messages")
    preferred, other = (said_message(row, _first(row, names)) for names in (PREFERRED, NON_PREFERRED))
    return messages, preferred, other, tools


def _first(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in row), names[0])


def _trl(row: Row) -> Asked:
    prompt = fields.prompt(row)
    return prompt, said(row, "chosen", prompt), said(row, "rejected", prompt), fields.tools(row)
