"""Who is asking: every path but two needs a credential, and this is the only place that decides."""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service import keys
from service.db import Database, is_away
from service.errors import Refusal, Unauthenticated, Unavailable

OPEN = frozenset({"/livez", "/readyz"})
ATTEMPT = re.compile(r"^/internal/attempts/(?P<job>[^/]+)/(?P<attempt>\d{1,9})/")


@dataclass(frozen=True)
class Caller:
    """The tenant that a valid key speaks for."""

    tenant: str
    key: str


class Authentication:
    """Denies by default: paths of attempts take that attempt's token, all others an API key."""

    def __init__(self, app: ASGIApp, database: Database, secret: bytes) -> None:
        self.app = app
        self.database = database
        self.secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its `caller` in the scope's state, or answer 401."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            caller = await run_in_threadpool(self._caller, scope["path"], Headers(scope=scope))
        except Refusal as refusal:
            answer = JSONResponse(
                refusal.envelope(), refusal.status, {"WWW-Authenticate": "Bearer", "x-should-retry": "false"}
            )
            await answer(scope, receive, send)
            return
        except DBAPIError as error:
            if not is_away(error):
                raise
            away = Unavailable("the database does not answer; try again", code="database_unavailable")
            await JSONResponse(away.envelope(), away.status)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _caller(self, path: str, headers: Headers) -> Caller | None:
        text = _key(headers.get("authorization", ""))
        if not text:
            raise Unauthenticated("no API key: send it as `Authorization: Bearer sk-…`")
        if attempt := ATTEMPT.match(path):
            expected = keys.attempt_token(self.secret, attempt["job"], int(attempt["attempt"]))
            if not hmac.compare_digest(expected.encode(), text.encode()):
                raise Unauthenticated("this is not the attempt's token")
            return None
        with self.database.snapshot() as db:
            key = keys.find(db, text)
        if key is None:
            raise Unauthenticated("this API key is not known here, or was revoked")
        return Caller(key.tenant, key.id)


def _key(header: str) -> str:
    """The bearer key; or the password of a URL's `user:key@`, for clients that can set no header (OpenRLHF's)."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() == "bearer":
        return text
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
