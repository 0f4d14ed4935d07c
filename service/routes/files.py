"""`/v1/files`, as the official client uses it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from service import files, uploads
from service.db.tables import File
from service.pages import Page
from service.routes import Caller, Db, Parts, Reading
from service.views import Deleted, FileObject, ListOf

UPLOAD = {
    "schema": {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"type": "string", "enum": list(files.PURPOSES)},
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": {"type": "integer", "minimum": files.SHORTEST, "maximum": files.LONGEST},
        },
    }
}
router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": UPLOAD}}})
async def create(request: Request, caller: Caller, parts: Parts) -> FileObject:
    """Upload a file; for training, preference pairs, one JSON object a line."""
    row = await uploads.receive(request, parts.settings, tenant=caller.tenant)
    return await run_in_threadpool(_record, row, parts)


def _record(row: File, parts: Parts) -> FileObject:
    with parts.database.transaction() as db:
        db.add(row)
    return FileObject.of(row)


@router.get("")
def listing(
    caller: Caller,
    db: Reading,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> ListOf[FileObject]:
    """The caller's files."""
    found = files.listed(db, Page(limit, after, order), tenant=caller.tenant, purpose=purpose)
    return ListOf.of([FileObject.of(row) for row in found.rows], has_more=found.has_more)


@router.get("/{file_id}")
def retrieve(file_id: str, caller: Caller, db: Reading) -> FileObject:
    """One file's facts."""
    return FileObject.of(files.get(db, file_id, tenant=caller.tenant))


@router.get("/{file_id}/content", response_class=FileResponse)
def content(file_id: str, caller: Caller, db: Reading, parts: Parts) -> FileResponse:
    """One file's bytes, as they were uploaded."""
    file = files.get(db, file_id, tenant=caller.tenant)
    return FileResponse(parts.settings.files / file.id, media_type="application/octet-stream", filename=file.filename)


@router.delete("/{file_id}")
def delete(file_id: str, caller: Caller, db: Db, parts: Parts) -> Deleted:
    """Forget a file and its bytes."""
    files.delete(db, file_id, parts.settings.files, tenant=caller.tenant)
    return Deleted(id=file_id, object="file")
