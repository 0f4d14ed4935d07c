"""What scoring refuses. The shape on the wire is OpenAI's: `{"error": {message, type, param, code}}`.

Refusal
├── Invalid            400  invalid_request_error   an input cannot be scored; `param` names it
├── Unauthenticated    401  authentication_error    no token, or not the right one
├── Broken             502  server_error            an engine answered with something that is no score
└── Unavailable        503  server_error            an engine does not answer; comes with `Retry-After`
"""

from __future__ import annotations

from typing import ClassVar

RETRY_AFTER_SECONDS = 5


class Refusal(Exception):
    """A sentence for the caller."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The body of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What the answer's head says beside its status."""
        return {}


class Invalid(Refusal):
    """The order cannot be carried out as it is."""

    code = "invalid_value"


class Unauthenticated(Refusal):
    """No valid token came with the request."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class Broken(Refusal):
    """An engine or endpoint answered, but not with numbers; asking again would give the same."""

    status, type, code = 502, "server_error", "engine_broken"


class Unavailable(Refusal):
    """An engine or endpoint does not answer."""

    status, type, code = 503, "server_error", "engine_unavailable"

    def headers(self) -> dict[str, str]:
        """When to ask again."""
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
