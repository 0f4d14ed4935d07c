"""The reference store: the frozen model's states at every scored token, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from trainers.data.examples import Example

DONE = "done.json"
STATES = "states.bin"
PAUSED = "paused.json"


@dataclass(frozen=True)
class Ingredients:
    """All that the reference's states depend on: whatever differs in one of them never reads the other's store."""

    model: str
    adapter: str
    tokenizer: str
    template: str
    data: str
    max_length: int
    dtype: str
    layout: str
    blocks: int  #: states of a token: the last and, for learned masks, the one after each block

    def digest(self) -> str:
        """The store's name."""
        return digest(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Shape:
    """B states of width d for each scored token, in `dtype`."""

    blocks: int
    width: int
    dtype: torch.dtype


class ReferenceStore:
    """One file of (M, B, d): the M scored tokens example by example, answer by answer.

    Several ranks may write disjoint examples of one store; all read all of it once it is done.
    """

    def __init__(self, folder: Path, examples: Sequence[Example], shape: Shape) -> None:
        self.folder = folder
        self._shape = shape
        self._leaves = len(examples[0].answers)
        lengths = [len(answer.scored) for example in examples for answer in example.answers]
        self._ends = [0, *accumulate(lengths)]
        self._states: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self._ends[-1] * self._shape.blocks * self._shape.width * self._shape.dtype.itemsize

    @property
    def done(self) -> bool:
        """Whether every example's states are in it."""
        return (self.folder / DONE).exists()

    def create(self) -> None:
        """An empty file of the full size; one rank calls it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / STATES).open("wb") as file:
            file.truncate(self.bytes)

    def paused(self, plan: Mapping[str, int]) -> int:
        """How many passes of this plan an earlier launch has written; 0 where it had another."""
        try:
            left = json.loads((self.folder / PAUSED).read_text())
        except FileNotFoundError:
            return 0
        return int(left["passes"]) if left["plan"] == plan else 0

    def pause(self, plan: Mapping[str, int], passes: int) -> None:
        """Say how far it is filled; one rank calls it when all have flushed."""
        (self.folder / PAUSED).write_text(json.dumps({"plan": plan, "passes": passes}))

    def flush(self) -> None:
        """Put what this rank has written on the disk."""
        with (self.folder / STATES).open("rb") as file:
            os.fsync(file.fileno())

    def finish(self, ingredients: Ingredients) -> None:
        """Say that it is complete, and of what it is made; one rank calls it when all have written."""
        (self.folder / DONE).write_text(json.dumps(asdict(ingredients)))

    def write(self, examples: Sequence[int], states: Tensor) -> None:
        """Put down (B, N, d) states whose tokens lie as in a row of these examples."""
        start = 0
        for place in self._places(examples):
            size = place.stop - place.start
            self._file()[place] = states[:, start : start + size].transpose(0, 1).to("cpu", self._shape.dtype)
            start += size

    def read(self, examples: Sequence[int]) -> Tensor:
        """The (B, N, d) states of these examples' row."""
        return torch.cat([self._file()[place] for place in self._places(examples)]).transpose(0, 1)

    def _places(self, examples: Sequence[int]) -> Iterator[slice]:
        for leaf in range(self._leaves):
            for example in examples:
                place = self._leaves * example + leaf
                yield slice(self._ends[place], self._ends[place + 1])

    def _file(self) -> Tensor:
        if self._states is None:
            shape = (self._ends[-1], self._shape.blocks, self._shape.width)
            size = self._ends[-1] * self._shape.blocks * self._shape.width
            path = str(self.folder / STATES)
            self._states = torch.from_file(path, shared=True, size=size, dtype=self._shape.dtype).view(shape)
        return self._states


def digest(content: bytes) -> str:
    """SHA-256, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def folder_digest(folder: Path | None) -> str:
    """Of all files in a small folder, with their names; of nothing where there is none."""
    if folder is None:
        return digest(b"")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(b"".join(f"{path.relative_to(folder)}:{digest(path.read_bytes())}\n".encode() for path in files))


def data_digest(examples: Sequence[Example]) -> str:
    """Of the token ids as they are trained on and which of them are scored, in their order."""
    total = hashlib.sha256()
    for example in examples:
        for part in (example.prompt, *(ids for answer in example.answers for ids in (answer.ids, answer.scored))):
            total.update(f"{len(part)}:".encode() + part.numpy().tobytes())
    return total.hexdigest()
