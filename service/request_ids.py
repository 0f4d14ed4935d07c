"""Every answer carries `x-request-id`, which is also in the log where something went wrong."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import ids


class RequestIds:
    """Numbers requests; the official client shows the number as `request_id`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put a fresh id into the scope's state and onto the answer's headers."""
        request_id = scope.setdefault("state", {})["request_id"] = ids.new("req")

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, numbered)
