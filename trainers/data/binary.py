"""Files of single answers that were liked or not, in TRL's shape for KTO. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.data import fields
from trainers.data.fields import Message, Part
from trainers.data.lines import Row, Wrong
from trainers.data.marks import Said, said

NOUN = "labelled answer"
SHAPE = 'a line is {"prompt", "completion", "label"}, label true or false'
LABEL = "label"


@dataclass(frozen=True)
class Labelled:
    """A prompt with one answer; `columns["label"]` is 1 where it was liked, else 0."""

    line: int
    prompt: Part
    answer: Said
    columns: Mapping[str, float]
    tools: tuple[Message, ...] | None = None

    @property
    def answers(self) -> tuple[Said]:
        """The one answer."""
        return (self.answer,)


def parse(number: int, row: Row) -> Labelled:
    """A line's answer; Wrong names the field at fault."""
    for name in ("prompt", "completion", LABEL):
        if row.get(name) is None:
            raise Wrong(f"{name} is missing: {SHAPE}")
    prompt = fields.prompt(row)
    if not isinstance(row[LABEL], bool):
        raise Wrong("label must be true or false")
    columns = fields.columns(row) | {LABEL: float(row[LABEL])}
    return Labelled(number, prompt, said(row, "completion", prompt), columns, fields.tools(row))
