"""How large a body may be: what is announced is refused at once, what is not is refused where it passes the limit."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: of an upload beside the file itself: boundaries, headers, the other fields
FORM_BYTES = 512 * 2**10
UPLOADS = "/v1/files"


class BodyTooLarge(HTTPException):
    """Passes through the framework's own parsing of bodies, which turns any other error into a 400."""


class BodyLimits:
    """Counts the bytes of request bodies."""

    def __init__(self, app: ASGIApp, body_bytes: int, file_bytes: int) -> None:
        self.app = app
        self.body_bytes, self.file_bytes = body_bytes, file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that stops at the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"] == UPLOADS
        limit = self.file_bytes + FORM_BYTES if upload else self.body_bytes
        refusal = BodyTooLarge(413, f"the body is larger than {self.file_bytes if upload else limit} bytes")
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced) > limit
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if too_large:
                raise refusal
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise refusal
            return message

        await self.app(scope, counted, send)
