"""The states of a job, as OpenAI's dialect names them, and the few moves between them."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """queued ⇄ running → succeeded | failed | cancelled; a paused job is queued again when it is resumed."""

    QUEUED = "queued"  #: waits for slots; `reason` says for which
    RUNNING = "running"  #: an attempt has been claimed; its workers start, run or stop
    PAUSED = "paused"  #: stopped at its owner's wish, its slots free, its checkpoints kept
    SUCCEEDED = "succeeded"  #: the manifest was there; the policy is registered
    FAILED = "failed"  #: `error` holds a sentence for the owner
    CANCELLED = "cancelled"  #: as its owner wished; no worker of it runs


#: no move leads out of these
ENDED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
