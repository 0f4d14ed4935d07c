"""Files: bytes under an id of ours, never under a name of the client's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from sqlalchemy import Select, event, or_, select
from sqlalchemy.orm import Session

from service import ids, lines, pages
from service.db.tables import File, now
from service.errors import Invalid, NotFound, TooLarge
from trainers.data import records
from trainers.data.lines import BadLine
from trainers.objectives import Objective

TRAINING = "fine-tune"
#: OpenAI's list; only files for `fine-tune` mean something to this service, the others are kept as they are
PURPOSES = ("assistants", "batch", TRAINING, "vision", "user_data", "evals")
#: of `expires_after`, in seconds
SHORTEST, LONGEST = 3600, 30 * 24 * 3600


class Incoming:
    """A file while it is written: nothing of it is seen before `keep`, and it is gone unless kept."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.id = ids.new("file")
        self.size = 0
        self._folder, self._limit = folder, limit
        self._digest = hashlib.sha256()
        self._partial = folder / f"{self.id}.partial"
        self._target = self._partial.open("xb")

    def write(self, chunk: bytes) -> None:
        """Take in the next bytes; TooLarge past the limit."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise TooLarge(f"the file is larger than {self._limit} bytes", param="file")
        self._digest.update(chunk)
        self._target.write(chunk)

    def keep(self, *, tenant: str, filename: str, purpose: str, expires_after: int | None = None) -> File:
        """Put the file into its place, durable before this returns; its row is not yet in the database.

        Raises Invalid for an empty file, an unknown purpose or a time out of bounds.
        """
        if purpose not in PURPOSES:
            raise Invalid(f"purpose {purpose!r} is none of {', '.join(PURPOSES)}", param="purpose")
        if expires_after is not None and not SHORTEST <= expires_after <= LONGEST:
            raise Invalid(f"a file expires after {SHORTEST} to {LONGEST} seconds", param="expires_after.seconds")
        if self.size == 0:
            raise Invalid(f"{filename!r} is empty", param="file")
        self._target.flush()
        os.fsync(self._target.fileno())
        self._partial.replace(self._folder / self.id)
        name = Path(filename).name.replace("\0", "")[:255] or self.id
        expires = None if expires_after is None else now() + expires_after
        return File(
            id=self.id,
            tenant=tenant,
            filename=name,
            purpose=purpose,
            bytes=self.size,
            sha256=self._digest.hexdigest(),
            created_at=now(),
            expires_at=expires,
        )

    def close(self) -> None:
        """Let go; what was not kept is gone."""
        self._target.close()
        self._partial.unlink(missing_ok=True)


def put(content: bytes, folder: Path, file_id: str, **facts: Any) -> File:
    """A file of the service's own; writing the same id again replaces it."""
    fresh = folder / f"{file_id}.partial"
    with fresh.open("wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())
    fresh.replace(folder / file_id)
    digest = hashlib.sha256(content).hexdigest()
    return File(id=file_id, bytes=len(content), sha256=digest, created_at=now(), **facts)


def get(db: Session, file_id: str, *, tenant: str, param: str | None = None) -> File:
    """The caller's file; NotFound for a stranger's and for one that has expired."""
    file = db.scalar(_there(tenant).where(File.id == file_id))
    if file is None:
        raise NotFound(f"there is no file {file_id!r}", param=param)
    return file


def listed(db: Session, page: pages.Page, *, tenant: str, purpose: str | None) -> pages.Slice[File]:
    """The caller's files, in the page's order."""
    chosen = _there(tenant)
    if purpose is not None:
        chosen = chosen.where(File.purpose == purpose)
    return pages.cut(db, chosen, File, page)


def delete(db: Session, file_id: str, folder: Path, *, tenant: str) -> None:
    """Forget a file; its bytes go once that is committed. A job that has read it runs on."""
    _forget(db, get(db, file_id, tenant=tenant), folder)


def sweep(db: Session, folder: Path) -> None:
    """Forget the files whose time has passed."""
    expired = select(File).where(File.expires_at <= now()).limit(100).with_for_update(skip_locked=True)
    for file in db.scalars(expired):
        _forget(db, file, folder)


def check(file: File, folder: Path, *, objective: Objective, param: str, line_bytes: int, nesting: int) -> int:
    """Count the lines that the objective can learn from; Invalid names the first that is none."""
    if file.purpose != TRAINING:
        raise Invalid(f"{file.id} was uploaded for {file.purpose!r}; training needs {TRAINING!r}", param=param)
    try:
        lines.check(folder / file.id, line_bytes=line_bytes, nesting=nesting)
        return records.check(folder / file.id, objective.data, objective.needs().columns)
    except BadLine as bad:
        raise Invalid(f"{file.filename}: {bad}", param=param, code=f"invalid_{param}") from bad


def _there(tenant: str) -> Select[File]:
    return select(File).where(File.tenant == tenant, or_(File.expires_at.is_(None), File.expires_at > now()))


def _forget(db: Session, file: File, folder: Path) -> None:
    place = folder / file.id
    db.delete(file)
    event.listen(db, "after_commit", lambda _: place.unlink(missing_ok=True), once=True)
