"""What scoring refuses. The shape on the wire is OpenAI's: `{"error": {message, type, param, code}}`.

Refusal
├── Invalid            400  invalid_request_error   an input cannot be scored; `param` names it
├── Unauthenticated    401  authentication_error    no token, or not the right one
└── Unavailable        503  server_error            an engine does not answer
"""

from __future__ import annotations

from typing import ClassVar


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


class Invalid(Refusal):
    """The order cannot be carried out as it is."""

    code = "invalid_value"


class Unauthenticated(Refusal):
    """No valid token came with the request."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class Unavailable(Refusal):
    """An engine does not answer."""

    status, type, code = 503, "server_error", "engine_unavailable"
