"""The index of a finished attempt's results; that it exists means that all it names is there. Torch-free."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from reward.frozen import Frozen

NAME = "manifest.json"


class StoredFile(Frozen):
    """A file's size in bytes and its SHA-256."""

    bytes: int = Field(ge=0)
    sha256: str


class Checkpoint(Frozen):
    """A policy on the way: `path`/adapter can be served."""

    step_number: int = Field(ge=0)
    path: str = Field(description="Relative to the attempt's folder.")
    metrics: dict[str, float]


class Manifest(Frozen):
    """What an attempt made, written last of all."""

    job: str
    attempt: int = Field(ge=1)
    created_at: int
    kind: Literal["adapter"] = "adapter"
    base_model: str = Field(description="Public name of the base model.")
    base_digest: str
    rank: int = Field(ge=1, description="Of the adapter as it is served.")
    target_modules: list[str]
    trained_tokens: int = Field(ge=0, description="Prompts once and both answers, times the epochs.")
    steps: int = Field(ge=0)
    metrics: dict[str, float]
    checkpoints: list[Checkpoint]
    files: dict[str, StoredFile]


def stored_files(root: Path, folders: Iterable[Path]) -> dict[str, StoredFile]:
    """Every file under the folders (or the files named themselves), by its path relative to `root`."""
    found = [path for folder in folders for path in ([folder] if folder.is_file() else folder.rglob("*"))]
    return {path.relative_to(root).as_posix(): _stored(path) for path in sorted(found) if path.is_file()}


def write(manifest: Manifest, out: Path) -> None:
    """Put the manifest in its place in one move, after its bytes are on the disk."""
    fresh = out / f"{NAME}.new"
    with fresh.open("w") as file:
        file.write(manifest.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(out / NAME)


def _stored(path: Path) -> StoredFile:
    with path.open("rb") as content:
        return StoredFile(bytes=path.stat().st_size, sha256=hashlib.file_digest(content, "sha256").hexdigest())
