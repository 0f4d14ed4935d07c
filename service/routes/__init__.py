"""Routes parse, authorise and delegate; what they share is here: the caller, the parts, a transaction, a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.auth import Caller as _Caller
from service.parts import Parts as _Parts


def _parts(request: Request) -> _Parts:
    parts: _Parts = request.app.state.parts
    return parts


def _caller(request: Request) -> _Caller:
    caller: _Caller = request.state.caller
    return caller


Parts = Annotated[_Parts, Depends(_parts)]
Caller = Annotated[_Caller, Depends(_caller)]


def _transaction(parts: Parts) -> Iterator[Session]:
    with parts.database.transaction() as db:
        yield db


def _snapshot(parts: Parts) -> Iterator[Session]:
    with parts.database.snapshot() as db:
        yield db


#: committed before the answer leaves
Db = Annotated[Session, Depends(_transaction, scope="function")]
#: for routes that only read
Reading = Annotated[Session, Depends(_snapshot, scope="function")]
