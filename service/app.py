"""The application: routes, authentication, one place where refusals become answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.auth import Authentication
from service.errors import Invalid, Refusal
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
)
from service.settings import Settings

log = logging.getLogger(__name__)

SCORING = (rewards, reward_models, reward_shapes, annotating)
#: says in the OpenAPI document that a key is needed; `Authentication` is what asks for it
KEYED = [Depends(HTTPBearer(auto_error=False, description="An API key."))]


def create_app(settings: Settings) -> FastAPI:
    """The service over the settings; its scheduler and engines live as long as the application."""
    parts = Parts.of(settings)
    app = FastAPI(title="prefserve", summary="Preference tuning and density-ratio rewards.", lifespan=_lifespan)
    app.state.parts = parts
    app.include_router(health.router)
    for module in (files, fine_tuning, models, inference, *SCORING, internal):
        app.include_router(module.router, dependencies=KEYED)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _broken)
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
    return JSONResponse(refusal.envelope(), refusal.status, refusal.headers())


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
    envelope = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": envelope}, error.status_code, error.headers)


def _broken(request: Request, error: Exception) -> JSONResponse:
    request_id = request.state.request_id
    log.error("request %s broke", request_id, exc_info=error)
    message = f"the service failed at this request; its log says more under {request_id}"
    envelope = {"message": message, "type": "server_error", "param": None, "code": "internal_error"}
    return JSONResponse({"error": envelope}, 500, {"x-request-id": request_id})
