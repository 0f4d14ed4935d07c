"""The scoring process: `python -m reward.app --host 127.0.0.1 --port 8101`, token in PREFSERVE_REWARD_TOKEN."""

from __future__ import annotations

import argparse
import hmac
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from reward.errors import Invalid, Refusal, Unauthenticated
from reward.scoring import Scorer
from reward.spec import ScoreList, ScoreOrder

TOKEN = "PREFSERVE_REWARD_TOKEN"  # noqa: S105 - the variable's name
ENGINE_TIMEOUT = httpx.Timeout(600, connect=5)


def create_app(token: str) -> FastAPI:
    """The scoring API; every route but `/livez` wants the bearer token. No route shows documentation."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=ENGINE_TIMEOUT, trust_env=False) as client:
            app.state.scorer = Scorer(client)
            yield

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Unauthenticated("the scoring process wants its bearer token")

    app = FastAPI(title="prefserve rewards", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.get("/livez")(_livez)
    app.post("/v1/rewards", dependencies=[Depends(authorised)], response_model_exclude_none=True)(_score)
    return app


def _livez() -> dict[str, str]:
    return {"status": "alive"}


async def _score(order: ScoreOrder, request: Request) -> ScoreList:
    scorer: Scorer = request.app.state.scorer
    return await scorer.carry_out(order)


def _refused(_: Request, refusal: Exception) -> JSONResponse:
    assert isinstance(refusal, Refusal)  # noqa: S101 - what it is registered for
    return JSONResponse(refusal.envelope(), refusal.status, refusal.headers())


def _malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    first = error.errors()[0]
    param = ".".join(str(step) for step in first["loc"][1:])
    message = first["msg"].removeprefix("Value error, ")
    return _refused(request, Invalid(f"{param}: {message}" if param else message, param=param or None))


def main() -> None:
    """Serve until told to stop; exits with a sentence if the token is missing."""
    parser = argparse.ArgumentParser(prog="python -m reward.app", description="Score answers over vLLM engines.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    token = os.environ.get(TOKEN)
    if not token:
        sys.exit(f"{TOKEN} must hold the token that callers send")
    uvicorn.run(create_app(token), host=chosen.host, port=chosen.port, log_level="warning")


if __name__ == "__main__":
    main()
