"""What the service refuses, and how each refusal looks from outside.

Refusal
├── Invalid            400  invalid_request_error   a field, a line or a file is wrong; `param` names it
├── Unauthenticated    401  authentication_error    no key, or not one of ours
├── NotFound           404  invalid_request_error   no such thing for this caller
├── TooLarge           413  invalid_request_error   more than this service takes in one piece
├── Stale              409  invalid_request_error   an attempt that is no longer the job's; never retried
├── Broken             502  server_error            an engine or endpoint answered with something that is no number
└── Unavailable        503  server_error            an engine or the scoring process is not there (yet)
"""

from __future__ import annotations

from typing import ClassVar

RETRY_AFTER_SECONDS = 5


class Refusal(Exception):
    """A sentence for the caller; leaves as `{"error": {message, type, param, code}}`."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code_here = code or self.code

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The body of the answer, in OpenAI's error shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code_here}}

    def headers(self) -> dict[str, str]:
        """What the answer's head says beside its status."""
        return {}


class Invalid(Refusal):
    """The request cannot be carried out as it is."""

    code = "invalid_value"


class Unauthenticated(Refusal):
    """No valid key came with the request."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class NotFound(Refusal):
    """The caller has no such thing; whether another tenant has it is not said."""

    status, code = 404, "not_found"


class TooLarge(Refusal):
    """The body is larger than this service takes."""

    status, code = 413, "request_too_large"


class Stale(Refusal):
    """The attempt that speaks has been superseded or has ended."""

    status, code = 409, "stale_attempt"


class Broken(Refusal):
    """Something behind the service answered, but not with numbers; asking again would give the same."""

    status, type, code = 502, "server_error", "engine_broken"


class Unavailable(Refusal):
    """Something behind the service is not running; the message says what and why."""

    status, type, code = 503, "server_error", "engine_unavailable"

    def headers(self) -> dict[str, str]:
        """When to ask again."""
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
