"""What a training file holds, by the kind that a method trains on. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.data import binary, lines, preference, supervised
from trainers.data.binary import Labelled
from trainers.data.lines import BadLine, Row
from trainers.data.preference import Pair
from trainers.data.supervised import Supervised
from trainers.objectives.base import Data

Record = Pair | Labelled | Supervised

PARSERS: Mapping[Data, tuple[Callable[[int, Row], Any], str]] = {
    "preference": (preference.parse, preference.NOUN),
    "supervised": (supervised.parse, supervised.NOUN),
    "binary": (binary.parse, binary.NOUN),
}


def read(path: Path, data: Data, columns: Collection[str] = ()) -> Iterator[Record]:
    """The file's records of that kind, one at a time; blank lines are passed over.

    Raises BadLine at the first line that is none or lacks one of the columns, and for a file without any.
    """
    for record in lines.records(path, *PARSERS[data]):
        for name in sorted(set(columns) - record.columns.keys()):
            raise BadLine(record.line, f"{name} is missing, which the method's settings need")
        yield record


def check(path: Path, data: Data, columns: Collection[str] = ()) -> int:
    """How many records of that kind the file holds; BadLine as in `read`. Holds one line in memory at a time."""
    return sum(1 for _ in read(path, data, columns))
