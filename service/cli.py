"""`prefserve`: run the service and look after its models and keys."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from service import keys, registry, rewards_cli
from service.db import Database
from service.errors import Invalid, Refusal
from service.replicas import place
from service.serving.limits import check_base
from service.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Self-hosted preference tuning.")
models = typer.Typer(no_args_is_help=True, help="Base models that jobs may use.")
api_keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(models, name="models")
app.add_typer(api_keys, name="keys")
app.add_typer(rewards_cli.app, name="rewards")

console = Console(highlight=False, soft_wrap=True)
HUB = re.compile(r"^(?P<id>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})$")


@app.callback()
def configure(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="State folder; default $PREFSERVE_HOME or ~/.prefserve.")] = None,
) -> None:
    """Read the settings once."""
    context.obj = Settings() if home is None else Settings(home=home)


@app.command()
def up(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
) -> None:
    """Run everything on this machine: API, scheduler, workers, engines. Ctrl-C stops it."""
    from service.app import create_app

    settings: Settings = context.obj
    settings.prepare()
    with place(settings) as replica, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise Refusal(f"cannot listen on {host}:{port}: {error.strerror}") from error
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{listening.getsockname()[1]}"  # noqa: S104
        application = create_app(settings.model_copy(update={"public_url": settings.public_url or url}), replica)
        _first_key(application.state.parts.database)
        config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=20)
        try:
            _Server(config, url, settings, application).run(sockets=[listening])
        finally:
            application.state.parts.close()  # a second Ctrl-C leaves out the application's own shutdown


class _Server(uvicorn.Server):
    """uvicorn, saying in one line when it is ready."""

    def __init__(self, config: uvicorn.Config, url: str, settings: Settings, application: FastAPI) -> None:
        super().__init__(config)
        self.application = application
        self.url, self.settings = url, settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        kind = f"{len(self.settings.gpus)} GPU" if self.settings.gpus else "CPU"
        console.print(f"prefserve is ready at {self.url}/v1 ({kind}, {self.settings.slots} slots)")
        console.print(f"state lies in {self.settings.home}; Ctrl-C stops the service")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is being answered, then stop the scheduler and the engines."""
        self.application.state.parts.leaving.set()
        console.print("prefserve is stopping; training that runs goes on and is found again at the next start")
        await super().shutdown(sockets)
        console.print("prefserve has stopped")


def _first_key(database: Database) -> None:
    with database.transaction() as db:
        if keys.everything(db):
            return
        _, text = keys.create(db, tenant="default", name="first")
    console.print(f"API key (shown once): {text}")


@models.command("add")
def add_model(
    context: typer.Context, name: str, source: Annotated[str, typer.Argument(help="PATH or ID@REVISION")]
) -> None:
    """Allow a base model: a folder on this machine, or a hub id at a commit."""
    settings: Settings = context.obj
    folder = _downloaded(source, settings)
    config = registry.read_config(folder)
    check_base(config, gpu=bool(settings.gpus))
    with _database(settings).transaction() as db:
        row = registry.add_base(db, name, folder, source=source if HUB.match(source) else str(folder))
    template = "" if registry.has_template(folder) else "; it has no chat template: prompts are plain text"
    console.print(f"{name}: {source}, digest {row.digest[:12]}{template}")


@models.command("list")
def list_models(context: typer.Context) -> None:
    """Show the base models."""
    table = Table("name", "digest", "source")
    with _database(context.obj).snapshot() as db:
        for row in registry.bases(db):
            table.add_row(row.name, row.digest[:12], row.source)
    console.print(table)


@api_keys.command("create")
def create_key(context: typer.Context, tenant: str = "default", name: str = "cli") -> None:
    """Make a key and show it, once."""
    with _database(context.obj).transaction() as db:
        key, text = keys.create(db, tenant=tenant, name=name)
    console.print(f"{key.id} for tenant {tenant}: {text}")


@api_keys.command("list")
def list_keys(context: typer.Context) -> None:
    """Show the keys, without their text."""
    table = Table("id", "tenant", "name", "key", "state")
    with _database(context.obj).snapshot() as db:
        for key in keys.everything(db):
            table.add_row(key.id, key.tenant, key.name, key.hint, "revoked" if key.revoked_at else "active")
    console.print(table)


@api_keys.command("revoke")
def revoke_key(context: typer.Context, key_id: str) -> None:
    """End a key."""
    with _database(context.obj).transaction() as db:
        keys.revoke(db, key_id)
    console.print(f"{key_id} is revoked")


@app.command()
def migrate(context: typer.Context) -> None:
    """Bring the database to this version's schema; `up` does it by itself."""
    _database(context.obj)
    console.print("the schema is current")


def _database(settings: Settings) -> Database:
    settings.prepare()
    database = Database(settings.database)
    database.migrate()
    return database


def _downloaded(source: str, settings: Settings) -> Path:
    """The folder of a model: the path given, or the hub's files at that commit."""
    if (folder := Path(source).expanduser()).is_dir():
        return folder.resolve()
    hub = HUB.match(source)
    if hub is None:
        raise Invalid(f"{source} is neither a folder nor ID@REVISION with a full commit hash")
    from huggingface_hub import snapshot_download

    target = settings.home / "models" / hub["id"].replace("/", "--") / hub["revision"]
    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    try:
        snapshot_download(hub["id"], revision=hub["revision"], allow_patterns=wanted, local_dir=target)
    except (OSError, ValueError) as error:
        raise Refusal(f"{source} cannot be downloaded: {error}") from error
    return target


def main() -> None:
    """Entry point: a refusal is one line on stderr and exit code 1."""
    try:
        app()
    except Refusal as refusal:
        print(f"prefserve: {refusal}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
