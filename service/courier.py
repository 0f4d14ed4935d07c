"""The courier: carries the outbox out, tries again what was not answered, and sweeps away files that have expired."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from service import files, webhooks
from service.db import Database
from service.db.tables import WebhookEndpoint
from service.errors import Invalid
from service.outgoing import FAILURES, Outgoing
from service.settings import Settings
from service.webhooks import Due

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0


@dataclass(frozen=True)
class Courier:
    """Several may run on one database: each delivery is taken by one at a time."""

    settings: Settings
    database: Database

    @property
    def outgoing(self) -> Outgoing:
        """What may be called."""
        return Outgoing(self.settings.outgoing_networks)

    def test(self, endpoint: WebhookEndpoint, kind: str) -> int:
        """Tell an endpoint of a job that does not exist, now; its answer's status. Raises Invalid if there is none."""
        due = Due(webhooks.telling(endpoint, kind, {"id": "ftjob-test"}), endpoint)
        try:
            return self._post(due)
        except FAILURES as error:
            raise Invalid(f"{endpoint.url} did not answer: {error}", param="url") from error

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop; an error is logged and the next round tries again."""
        swept = 0.0
        while not stop.wait(max(0.2, self.settings.tick_seconds)):
            try:
                self.deliver()
                if time.monotonic() - swept > SWEEP_SECONDS:
                    self.sweep()
                    swept = time.monotonic()
            except Exception:
                log.exception("a round of the courier failed; the next one tries again")

    def deliver(self) -> int:
        """Try what is due; how many that were."""
        with self.database.snapshot() as db:
            if not webhooks.any_due(db):
                return 0  # an idle service does not lock its database
        with self.database.transaction() as db:
            taken = webhooks.take(db)
        for due in taken:
            delivered, answer = self._try(due)
            with self.database.transaction() as db:
                webhooks.settle(db, due.delivery, delivered=delivered, answer=answer)
        return len(taken)

    def sweep(self) -> None:
        """Forget expired files and old deliveries."""
        with self.database.transaction() as db:
            files.sweep(db, self.settings.files)
            webhooks.sweep(db)

    def _try(self, due: Due) -> tuple[bool, str]:
        try:
            status = self._post(due)
        except FAILURES as error:
            log.info("webhook %s was not delivered: %s", due.delivery.id, error)
            return False, str(error) or type(error).__name__
        return 200 <= status < 300, str(status)

    def _post(self, due: Due) -> int:
        headers = webhooks.signed(due, self.settings.secret)
        return self.outgoing.post(due.endpoint.url, due.delivery.body.encode(), headers)
