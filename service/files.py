"""Uploads: bytes under an id of ours, never under a name of the client's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from service import ids, pages
from service.db.tables import File
from service.errors import Invalid, NotFound, TooLarge
from trainers.data import records
from trainers.data.lines import BadLine
from trainers.objectives import Objective

CHUNK = 2**20
PURPOSE = "fine-tune"


def store(source: BinaryIO, folder: Path, *, tenant: str, filename: str, purpose: str, limit: int) -> File:
    """Write an upload to the folder, durable before this returns; the row is not yet in the database.

    Raises Invalid for another purpose or an empty file, TooLarge past `limit` bytes.
    """
    if purpose != PURPOSE:
        raise Invalid(f"purpose {purpose!r} is not served here; use {PURPOSE!r}", param="purpose")
    file_id, size, digest = ids.new("file"), 0, hashlib.sha256()
    partial = folder / f"{file_id}.partial"
    try:
        with partial.open("xb") as target:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"{filename!r} is larger than {limit} bytes", param="file")
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        if size == 0:
            raise Invalid(f"{filename!r} is empty", param="file")
        partial.replace(folder / file_id)
    finally:
        partial.unlink(missing_ok=True)
    name = Path(filename).name[:255] or file_id
    return File(id=file_id, tenant=tenant, filename=name, purpose=purpose, bytes=size, sha256=digest.hexdigest())


def get(db: Session, file_id: str, *, tenant: str, param: str | None = None) -> File:
    """The caller's file; NotFound for a stranger's."""
    file = db.scalar(select(File).where(File.id == file_id, File.tenant == tenant))
    if file is None:
        raise NotFound(f"there is no file {file_id!r}", param=param)
    return file


def listed(db: Session, page: pages.Page, *, tenant: str, purpose: str | None) -> pages.Slice[File]:
    """The caller's files, in the page's order."""
    chosen = select(File).where(File.tenant == tenant)
    if purpose is not None:
        chosen = chosen.where(File.purpose == purpose)
    return pages.cut(db, chosen, File, page)


def delete(db: Session, file_id: str, folder: Path, *, tenant: str) -> None:
    """Forget a file; its bytes go once that is committed. A job that has read it runs on."""
    db.delete(get(db, file_id, tenant=tenant))
    event.listen(db, "after_commit", lambda _: (folder / file_id).unlink(missing_ok=True), once=True)


def check(file: File, folder: Path, *, objective: Objective, param: str) -> int:
    """Count the lines that the objective can learn from; Invalid names the first that is none."""
    try:
        return records.check(folder / file.id, objective.data, objective.needs().columns)
    except BadLine as bad:
        raise Invalid(f"{file.filename}: {bad}", param=param, code=f"invalid_{param}") from bad
