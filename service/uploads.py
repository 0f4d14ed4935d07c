"""A multipart upload on its way to the store: parsed as it arrives, refused while it arrives, never held whole."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from service.db.tables import File
from service.errors import Invalid
from service.files import Incoming
from service.settings import Settings

#: a field that is no file, all header lines of a part
MOST_BYTES = 16 * 2**10
MOST_PARTS = 20


async def receive(request: Request, settings: Settings, *, tenant: str) -> File:
    """The file of a `multipart/form-data` body with `file`, `purpose` and `expires_after`, durable; its row is new.

    Raises Invalid or TooLarge, and then leaves nothing behind.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Invalid("file: an upload is multipart/form-data with the fields file and purpose", param="file")
    form = _Form(Incoming(settings.files, settings.max_file_bytes), options[b"boundary"])
    try:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(form.feed, chunk)
        return await run_in_threadpool(form.file, tenant)
    except ClientDisconnect as gone:
        raise Invalid("the upload ended before its end", param="file") from gone
    finally:
        form.incoming.close()


class _Form:
    """What has arrived of the form so far."""

    def __init__(self, incoming: Incoming, boundary: bytes) -> None:
        self.incoming = incoming
        self.filename: str | None = None
        self._fields: dict[str, bytes] = {}
        self._parts, self._name, self._is_file, self._ended = 0, "", False, False
        self._header_field, self._header_value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        callbacks: Any = {name: getattr(self, f"_{name}") for name in self._CALLBACKS}
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise Invalid("the upload's boundary is not one", param="file") from error

    _CALLBACKS = (
        "on_part_begin", "on_part_data", "on_header_field", "on_header_value", "on_header_end", "on_headers_finished",
        "on_end",
    )  # fmt: skip

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Invalid(f"the upload is not well-formed multipart: {error}", param="file") from error

    def file(self, tenant: str) -> File:
        """The kept file, once the body has ended."""
        if not self._ended:
            raise Invalid("the upload ended before its end", param="file")
        if self.filename is None:
            raise Invalid("file: an upload needs the field file", param="file")
        if "purpose" not in self._fields:
            raise Invalid("purpose: an upload needs the field purpose", param="purpose")
        expires = self._expires_after()
        return self.incoming.keep(
            tenant=tenant, filename=self.filename, purpose=self._text("purpose"), expires_after=expires
        )

    def _expires_after(self) -> int | None:
        given = {name: self._text(name) for name in self._fields if name.startswith("expires_after[")}
        if not given:
            return None
        anchor, seconds = given.get("expires_after[anchor]"), given.get("expires_after[seconds]", "")
        if anchor != "created_at":
            raise Invalid("expires_after.anchor: only created_at is known", param="expires_after.anchor")
        if not seconds.isascii() or not seconds.isdecimal() or len(seconds) > 12:
            raise Invalid("expires_after.seconds: a whole number is required", param="expires_after.seconds")
        return int(seconds)

    def _text(self, name: str) -> str:
        return self._fields[name].decode(errors="replace")

    def _on_part_begin(self) -> None:
        self._parts += 1
        self._headers, self._name, self._is_file = {}, "", False
        if self._parts > MOST_PARTS:
            raise Invalid(f"an upload has {MOST_PARTS} fields at most", param="file")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_field += data[start:end]
        self._bounded(self._header_field)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._bounded(self._header_value)

    def _on_header_end(self) -> None:
        self._headers[self._header_field.lower()] = self._header_value
        self._header_field, self._header_value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if not self._is_file:
            self._fields[self._name] = b""
        elif self.filename is not None:
            raise Invalid("an upload has one file", param="file")
        else:
            self.filename = options.get(b"filename", b"").decode(errors="replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.incoming.write(data[start:end])
            return
        self._fields[self._name] += data[start:end]
        self._bounded(self._fields[self._name])

    def _on_end(self) -> None:
        self._ended = True

    def _bounded(self, read: bytes) -> None:
        if len(read) > MOST_BYTES:
            raise Invalid(f"{self._name or 'a header'} is longer than {MOST_BYTES} bytes", param=self._name or "file")
