"""Where models and other scorers answer, and what is known of the models behind it."""

from __future__ import annotations

from pydantic import Field

from reward.frozen import Frozen


class Facts(Frozen):
    """What a score's provenance says of a model; two models with one digest give one log-prob."""

    digest: str = Field(description="SHA-256 over the files of the base model and of its adapter, if any.")
    tokenizer_sha256: str
    chat_template_sha256: str | None = Field(description="None: the model has no template.")
    dtype: str = Field(description="What the engine computes in.")
    control_tokens: list[str] = Field([], description="Texts that the tokenizer reads as control tokens.")


class Endpoint(Frozen):
    """Where a model answers: an engine's address on loopback and the model's name inside it."""

    url: str
    name: str
    key: str = Field("", repr=False, description="What the engine asks its callers for; empty if nothing.")
    facts: Facts | None = Field(None, description="None: nobody vouches for it, and nothing of it is cached.")

    def headers(self) -> dict[str, str]:
        """What to send with every request to it."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}
