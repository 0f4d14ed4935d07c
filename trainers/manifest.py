"""The index of a finished attempt's results; that it exists means that all it names is there. Torch-free."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
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
    """A policy on the way: `path`/adapter or `path`/merged can be served."""

    step_number: int = Field(ge=0)
    path: str = Field(description="Relative to the attempt's folder.")
    metrics: dict[str, float]


class Manifest(Frozen):
    """What an attempt made, written last of all."""

    job: str
    attempt: int = Field(ge=1)
    created_at: int
    kind: Literal["adapter", "merged"] = Field("adapter", description="The folder that is served.")
    base_model: str = Field(description="Public name of the base model.")
    base_digest: str = Field(description="Of the weights that the job started from.")
    merged_model: str | None = Field(None, description="The policy on whose merged weights an adapter goes.")
    rank: int | None = Field(None, ge=1, description="Of the adapter as it is served.")
    target_modules: list[str]
    trained_tokens: int = Field(ge=0, description="Prompts once and their answers, over all steps that ran.")
    steps: int = Field(
        ge=0, description="Steps behind what is published: fewer than ran where an earlier checkpoint was the best."
    )
    metrics: dict[str, float]
    checkpoints: list[Checkpoint]
    files: dict[str, StoredFile]


def folder_digest(files: Mapping[str, StoredFile], folder: str) -> str:
    """SHA-256 over the names and digests of a folder's own files, as they stand in a manifest."""
    inside = {name.removeprefix(f"{folder}/"): file for name, file in files.items() if name.startswith(f"{folder}/")}
    return digest({name: file.sha256 for name, file in inside.items() if "/" not in name})


def digest(files: Mapping[str, str]) -> str:
    """SHA-256 over names and SHA-256s."""
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


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


def sha256(path: Path) -> str:
    """Of a file's content, as hexadecimal digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _stored(path: Path) -> StoredFile:
    return StoredFile(bytes=path.stat().st_size, sha256=sha256(path))
