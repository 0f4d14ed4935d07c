"""The application: routes, authentication, one place where refusals become answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from sqlalchemy.exc import DataError, DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.auth import Authentication
from service.db import is_away
from service.errors import Invalid, Refusal, Unavailable
from service.limits import BodyLimits
from service.parts import Parts
from service.request_ids import RequestIds
from service.routes import (
    annotating,
    files,
    fine_tuning,
    health,
    inference,
    internal,
    models,
    reward_models,
    reward_shapes,
    rewards,
    webhooks,
)
from service.settings import Settings

log = logging.getLogger(__name__)

SCORING = (rewards, reward_models, reward_shapes, annotating)
TOO_MANY_REQUESTS = 429
#: codes of what the framework refuses
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}

#: says in the OpenAPI document that a key is needed; `Authentication` is what asks for it
KEYED = [Depends(HTTPBearer(auto_error=False, description="An API key."))]


def create_app(settings: Settings, replica: int = 0) -> FastAPI:
    """The service over the settings; its scheduler and engines live as long as the application."""
    parts = Parts.of(settings, replica)
    app = FastAPI(title="prefserve", summary="Preference tuning and density-ratio rewards.", lifespan=_lifespan)
    app.state.parts = parts
    app.include_router(health.router)
    for module in (files, fine_tuning, models, inference, *SCORING, webhooks, internal):
        app.include_router(module.router, dependencies=KEYED)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(DBAPIError, _of_the_database)
    app.add_exception_handler(UnicodeEncodeError, _unstorable)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(BodyLimits, body_bytes=settings.max_body_bytes, file_bytes=settings.max_file_bytes)
    app.add_middleware(Authentication, database=parts.database, secret=settings.secret)
    app.add_middleware(RequestIds)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    parts.start()
    try:
        yield
    finally:
        await parts.client.aclose()
        await run_in_threadpool(parts.close)


def _refused(_: Request, refusal: Exception) -> JSONResponse:
    assert isinstance(refusal, Refusal)  # noqa: S101 - what it is registered for
    return JSONResponse(refusal.envelope(), refusal.status, refusal.headers() | _no_retry(refusal.status))


def _no_retry(status: int) -> dict[str, str]:
    """The official client repeats some refusals three times, and other clients all of them: it cannot help."""
    return {"x-should-retry": "false"} if status < TOO_MANY_REQUESTS else {}


def _malformed(request: Request, error: Exception) -> JSONResponse:
    """The first thing wrong with a body or query, with its field's name; 400, as OpenAI answers."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    first = error.errors()[0]
    param = _field(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return _refused(request, Invalid(f"{param}: {message}" if param else message, param=param))


def _field(location: tuple[str | int, ...]) -> str | None:
    """`("body", "method", "dpo", "dpo", "hyperparameters", "beta")` → `method.dpo.hyperparameters.beta`."""
    steps = [str(step) for step in location[1:]]
    if steps[:1] == ["peft"]:
        del steps[1:2]  # which member of the union it was read as
    kept = [step for step, before in zip(steps, [None, *steps], strict=False) if step != before]
    return ".".join(kept) or None


def _unrouted(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    code = CODES.get(error.status_code)
    envelope = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": code}
    headers = {**_no_retry(error.status_code), **(error.headers or {})}
    return JSONResponse({"error": envelope}, error.status_code, headers)


def _of_the_database(request: Request, error: Exception) -> JSONResponse:
    """Gone for a moment: to be tried again; given what it cannot hold: the request's fault; else ours."""
    assert isinstance(error, DBAPIError)  # noqa: S101 - what it is registered for
    if is_away(error):
        log.warning("the database did not answer request %s: %s", request.state.request_id, error.orig)
        return _refused(request, Unavailable("the database does not answer; try again", code="database_unavailable"))
    return _unstorable(request, error) if isinstance(error, DataError) else _broken(request, error)


def _unstorable(request: Request, _: Exception) -> JSONResponse:
    return _refused(request, Invalid("the request holds a character or a number that cannot be stored"))


def _broken(request: Request, error: Exception) -> JSONResponse:
    request_id = request.state.request_id
    log.error("request %s broke", request_id, exc_info=error)
    message = f"the service failed at this request; its log says more under {request_id}"
    envelope = {"message": message, "type": "server_error", "param": None, "code": "internal_error"}
    return JSONResponse({"error": envelope}, 500, {"x-request-id": request_id})
