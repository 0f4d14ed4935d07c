"""`prefserve rewards`: ask a running service about rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from reward.evaluating import Accuracy, Evaluation
from service.errors import Invalid, Refusal, Unavailable

app = typer.Typer(no_args_is_help=True, help="Rewards of a running service.")
console = Console(highlight=False, soft_wrap=True)

Url = Annotated[str, typer.Option(help="The service's address.")]
Key = Annotated[str, typer.Option(envvar="PREFSERVE_KEY", help="An API key.", show_envvar=True)]
SECONDS = 3600.0


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="Preference pairs; `subset` and `preference` are optional columns.")],
    model: Annotated[str, typer.Option(help="A stored reward model, or a reward's settings as JSON.")],
    key: Key,
    url: Url = "http://127.0.0.1:8000",
    limit: Annotated[int, typer.Option(help="Most pairs.")] = 2000,
    aggregation: Annotated[str | None, typer.Option(help="sum, mean or per_token_clipped.")] = None,
    skip: Annotated[bool, typer.Option(help="Leave out pairs that cannot be scored.")] = False,
) -> None:
    """Show how often a reward prefers the chosen answer, per subset, with 95 % intervals."""
    reward = json.loads(model) if model.startswith("{") else model
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS) as http:
        uploaded = _asked(http, "/v1/files", files={"file": (file.name, _bytes(file))}, data={"purpose": "fine-tune"})
        try:
            options = {"limit": limit, "aggregation": aggregation, "skip": skip}
            body = {"model": reward, "file": uploaded["id"]} | options
            found = Evaluation.model_validate(_asked(http, "/v1/rewards/evaluate", json=body))
        finally:
            http.delete(f"/v1/files/{uploaded['id']}")
    console.print(_table(found))
    if found.skipped:
        console.print(f"{found.skipped} pairs could not be scored and are left out")
    for warning in found.warnings:
        console.print(warning)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from error


def _asked(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    try:
        answer = http.post(path, **body)
    except httpx.TransportError as error:
        raise Unavailable(f"nobody answers at {http.base_url}: {error}") from error
    parsed: dict[str, Any] = answer.json()
    if not answer.is_success:
        raise Refusal(parsed["error"]["message"])
    return parsed


def _table(found: Evaluation) -> Table:
    table = Table("subset", "accuracy", "95 %", "pairs", "ties", "mean margin")
    rows = list(found.subsets.items()) if len(found.subsets) > 1 else []
    for name, one in [*rows, ("all", found.overall)]:
        table.add_row(name, *_row(one))
    return table


def _row(one: Accuracy) -> tuple[str, ...]:
    interval = f"{one.low:.3f}-{one.high:.3f}"
    return f"{one.accuracy:.3f}", interval, str(one.pairs), str(one.ties), f"{one.mean_margin:.3f}"
