"""The reference store: what the frozen model says of every scored token, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from trainers.data.examples import Example

DONE = "done.json"
STATES, NUMBERS = "states.bin", "numbers.bin"
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
    blocks: int  #: states of a token
    mask: str  #: what MaPO's mask is made of

    def digest(self) -> str:
        """The store's name."""
        return digest(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Reference:
    """What is known of the frozen model at N scored tokens."""

    logp: Tensor  #: (N,) float32, log π_ref(y_t)
    states: Tensor  #: (B, N, d): the last state, then as `Shape` says
    mask: Tensor | None = None  #: (N,) float32, MaPO's

    def to(self, device: torch.device) -> Reference:
        """On a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Reference(self.logp.to(device), self.states.to(device), mask)

    def at(self, places: Tensor) -> Reference:
        """Of some of the tokens."""
        mask = None if self.mask is None else self.mask[places]
        return Reference(self.logp[places], self.states[:, places], mask)


@dataclass(frozen=True)
class Shape:
    """B states of width d for each scored token, in `dtype`: the last; each block's; E_ref of the output embedding."""

    blocks: int
    width: int
    dtype: torch.dtype
    mask: bool = False  #: whether there is a mask beside the log-probability

    @property
    def numbers(self) -> int:
        """float32 numbers for each token beside its states."""
        return 1 + self.mask


class ReferenceStore:
    """Files of (M, B, d) states and (M, 1 or 2) numbers: the M scored tokens example by example, answer by answer.

    Several ranks may write disjoint examples of one store; all read all of it once it is done.
    """

    def __init__(self, folder: Path, examples: Sequence[Example], shape: Shape) -> None:
        self.folder = folder
        self._shape = shape
        self._leaves = len(examples[0].answers)
        lengths = [len(answer.scored) for example in examples for answer in example.answers]
        self._ends = [0, *accumulate(lengths)]
        tokens = self._ends[-1]
        self._files = {
            STATES: _Table(folder / STATES, (tokens, shape.blocks, shape.width), shape.dtype),
            NUMBERS: _Table(folder / NUMBERS, (tokens, shape.numbers), torch.float32),
        }

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return sum(table.bytes for table in self._files.values())

    @property
    def done(self) -> bool:
        """Whether every example is in it."""
        return (self.folder / DONE).exists()

    def create(self) -> None:
        """Empty files of the full size; one rank calls it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in self._files.values():
            table.create()

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
        for name in self._files:
            with (self.folder / name).open("rb") as file:
                os.fsync(file.fileno())

    def finish(self, ingredients: Ingredients) -> None:
        """Say that it is complete, and of what it is made; one rank calls it when all have written."""
        (self.folder / DONE).write_text(json.dumps(asdict(ingredients)))

    def write(self, examples: Sequence[int], reference: Reference) -> None:
        """Put down what is known of tokens that lie as in a row of these examples."""
        numbers = torch.stack([n for n in (reference.logp, reference.mask) if n is not None])
        for name, given in ((STATES, reference.states), (NUMBERS, numbers)):
            start = 0
            for place in self._places(examples):
                size = place.stop - place.start
                self._files[name].put(place, given[:, start : start + size].transpose(0, 1))
                start += size

    def read(self, examples: Sequence[int]) -> Reference:
        """Of the tokens of these examples' row."""
        states, numbers = (
            torch.cat([self._files[name].get(place) for place in self._places(examples)]).transpose(0, 1)
            for name in (STATES, NUMBERS)
        )
        return Reference(numbers[0], states, numbers[1] if self._shape.mask else None)

    def _places(self, examples: Sequence[int]) -> Iterator[slice]:
        for leaf in range(self._leaves):
            for example in examples:
                place = self._leaves * example + leaf
                yield slice(self._ends[place], self._ends[place + 1])


class _Table:
    """A file that is a tensor of `shape`, mapped when it is first used."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._mapped: Tensor | None = None

    @property
    def bytes(self) -> int:
        return prod(self._shape) * self._dtype.itemsize

    def create(self) -> None:
        with self._path.open("wb") as file:
            file.truncate(self.bytes)

    def put(self, place: slice, rows: Tensor) -> None:
        self._map()[place] = rows.to("cpu", self._dtype)

    def get(self, place: slice) -> Tensor:
        return self._map()[place]

    def _map(self) -> Tensor:
        if self._mapped is None:
            flat = torch.from_file(str(self._path), shared=True, size=prod(self._shape), dtype=self._dtype)
            self._mapped = flat.view(self._shape)
        return self._mapped


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
