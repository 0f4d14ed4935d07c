"""The running service's parts, made once from the settings and handed to whatever needs them."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from typing import Self

import anyio
import httpx

from service import registry
from service.annotator import Annotator
from service.courier import Courier
from service.db import Database
from service.errors import Refusal
from service.launchers.base import Launcher
from service.launchers.local import LocalLauncher
from service.replicas import check_home
from service.scheduler import Scheduler
from service.scores import Scores
from service.serving.engines import Engines, Servable
from service.serving.scoring import Scoring
from service.settings import Settings

log = logging.getLogger(__name__)


def _loopback() -> httpx.AsyncClient:
    """Loopback only: no proxy, as many streams as there are callers, and answers that take their time."""
    return httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None))  # noqa: S113


@dataclass(frozen=True)
class Parts:
    """Everything that lives as long as the service."""

    settings: Settings
    database: Database
    launcher: Launcher
    engines: Engines
    scoring: Scoring
    #: this service among those that share the database
    replica: int
    stop: threading.Event = field(default_factory=threading.Event)
    #: set when the service is asked to stop: streams end, so that nobody waits for them
    leaving: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    #: threads that wait for engines, apart from those that answer everything else
    waiting: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(256))
    client: httpx.AsyncClient = field(default_factory=_loopback)

    @classmethod
    def of(cls, settings: Settings, replica: int = 0) -> Self:
        """Open the home folder and the database; nothing runs yet. Replicas beyond the first have engines apart."""
        settings.prepare()
        database = Database(settings.database)
        database.migrate()
        check_home(database, settings.secret)
        launcher = LocalLauncher(
            root=settings.artifacts,
            python=settings.trainer_python,
            extensions_dir=settings.extensions_dir,
            gpus=settings.gpus,
            grace_seconds=settings.stop_grace_seconds,
        )
        engines = Engines(replace(settings.engine, home=settings.home_of(replica)))
        return cls(settings, database, launcher, engines, Scoring(settings.home_of(replica)), replica)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler over these parts."""
        return Scheduler(self.settings, self.database, self.launcher, self.load, f"replica-{self.replica}")

    @property
    def courier(self) -> Courier:
        """The courier of webhooks over these parts."""
        return Courier(self.settings, self.database)

    @property
    def scores(self) -> Scores:
        """How tenants' answers are scored."""
        return Scores(self.settings, self.database, self.engines, self.scoring)

    @property
    def annotator(self) -> Annotator:
        """What works annotations off."""
        return Annotator(self.scores, self.settings.tick_seconds)

    def start(self) -> None:
        """Begin to schedule, to annotate, and to deliver what waits in the outbox."""
        loops = {"scheduler": self.scheduler.run, "annotator": self.annotator.run, "courier": self.courier.run}
        for name, loop in loops.items():
            thread = threading.Thread(target=loop, args=(self.stop,), name=name, daemon=True)
            thread.start()
            self.threads.append(thread)

    @property
    def scheduling(self) -> bool:
        """Whether all that runs in the background lives."""
        return bool(self.threads) and all(thread.is_alive() for thread in self.threads)

    def load(self, model: str, tenant: str) -> None:
        """Have an engine take a policy in the background, so that the first request finds it there."""
        threading.Thread(target=self._load, args=(model, tenant), name=f"load {model}", daemon=True).start()

    def unload(self, servable: Servable) -> None:
        """Have the engine drop a policy in the background; until then nobody can name it any more."""
        threading.Thread(target=self._unload, args=(servable,), name=f"unload {servable.id}", daemon=True).start()

    def _unload(self, servable: Servable) -> None:
        try:
            self.engines.unload(servable)
        except Refusal as refusal:
            log.warning("%s is still in its engine: %s", servable.id, refusal)

    def _load(self, model: str, tenant: str) -> None:
        try:
            with self.database.snapshot() as db:
                servable = registry.servable(db, registry.find(db, model, tenant=tenant))
            self.engines.endpoint(servable)
        except Refusal as refusal:
            log.warning("%s is not served yet: %s", model, refusal)

    def close(self) -> None:
        """Stop scheduling and serving; attempts run on and are found again at the next start."""
        self.leaving.set()
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.scoring.close()
        self.engines.close()
        self.database.close()
