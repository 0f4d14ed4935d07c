"""The demo's course: base model, service, answers, job, answers again, scores, report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console

from examples.demo import answers, base_model, control_plane, figures, heatmap, inputs, plots, report, scoring, tuning
from examples.demo.control_plane import ControlPlane
from examples.demo.inputs import Inputs
from examples.demo.stages import Bar, Stages
from examples.demo.tuning import Event, Tuned

CACHE = Path(__file__).resolve().parents[2] / ".cache"
#: longest wait for an answer, in seconds: a model's first one waits for its engine
PATIENCE = 300.0
PROMPTS, EACH = 16, 4


@dataclass(frozen=True)
class Options:
    """What the command line asked for; `model` and `pairs` together or not at all."""

    method: str
    model: Path | None
    pairs: Path | None
    hyperparameters: dict[str, Any]
    home: Path


def run(options: Options, console: Console) -> dict[str, Any]:
    """The whole demo; returns its figures. Everything that it started has ended when it returns or raises."""
    began, stages = time.monotonic(), Stages(console)
    console.rule(f"[bold]prefserve[/]: {options.method}", align="left")
    material = _material(options, stages)
    options.home.mkdir(parents=True)
    control_plane.register(options.home, material.name, material.model)
    with control_plane.running(options.home) as plane:
        results = _course(plane, material, options.method, stages)
    found = figures.gather(options.method, results, reviews=material.reviews)
    places = _written(results, found, options)
    _show(console, material, results, found)
    report.places(console, places)
    return found.as_json() | {"seconds": round(time.monotonic() - began, 1), "home": str(options.home)}


def _material(options: Options, stages: Stages) -> Inputs:
    if options.model is not None and options.pairs is not None:
        material = inputs.of_the_user(options.model, options.pairs)
    else:
        material = inputs.of_the_grammar(_base_model(stages), options.method)
    return replace(material, hyperparameters=material.hyperparameters | options.hyperparameters)


def _base_model(stages: Stages) -> Path:
    with stages.stage("base model", "looking for it") as stage:
        if found := base_model.cached(CACHE):
            stage.result = "film reviews of a grammar, 1.7 million parameters, from the cache"
            return found
        with Bar(stages.console, "a small Llama learns film reviews") as bar:
            made = base_model.build(CACHE, lambda step, steps, loss: bar.show(step, steps, f"loss {loss:.2f}"))
        stage.result = "a Llama of 1.7 million parameters has learned film reviews"
        return made


def _course(plane: ControlPlane, material: Inputs, method: str, stages: Stages) -> figures.Results:
    client = OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, timeout=PATIENCE, max_retries=0)
    asked = material.held_out[:PROMPTS]
    with stages.stage("before", "vLLM starts; the base model answers") as stage:
        before = answers.sample(client, material.name, asked, each=EACH)
        stage.result = _told(material, before, "the base model")
    tuned = _tune(client, material, method, plane.home, stages)
    with stages.stage("after", "the tuned policy answers") as stage:
        after = answers.sample(client, tuned.policy, asked, each=EACH)
        stage.result = _told(material, after, tuned.policy)
    with stages.stage("rewards", "scoring held-out pairs") as stage:
        scores = scoring.score_pairs(plane, material.held_out, strong=tuned.policy, weak=material.name)
        stage.result = f"POST /v1/rewards scored {2 * len(scores)} answers, token by token"
    masks = json.loads((_artifacts(plane.home, tuned.job) / "token_masks.json").read_text())
    return figures.Results(tuned.curve, before, after, scores, masks)


def _tune(client: OpenAI, material: Inputs, method: str, home: Path, stages: Stages) -> Tuned:
    with stages.stage("training", "the job is being queued") as stage:
        job = tuning.submit(client, material, method, home / "pairs.jsonl")
        try:
            with Bar(stages.console, job.id) as bar:
                tuned = tuning.follow(client, job, lambda event: _move(bar, event))
        except BaseException:
            tuning.cancel(client, job.id)  # a service that stops leaves its jobs running, to be found again
            raise
        steps, last = int(tuned.curve[-1]["step"]), figures.at_the_end(tuned.curve, "train_loss")
        stage.result = (
            f"{steps} steps on {len(material.lines)} pairs, loss {tuned.curve[0]['train_loss']:.3f} -> {last:.3f}"
        )
    return tuned


def _move(bar: Bar, event: Event) -> None:
    if not event.metrics:
        bar.show(None, None, event.message)
        return
    m = event.metrics
    told = f"loss {m['train_loss']:.3f}, margin {m['rewards/margins']:.2f}, {m['eta_seconds']:.0f} s left"
    bar.show(m["step"], m["total_steps"], told)


def _told(material: Inputs, groups: list[list[str]], who: str) -> str:
    count = sum(map(len, groups))
    share = f", {figures.favourable_share(groups):.0%} favourable" if material.reviews else ""
    return f"{count} answers of {who}{share}"


def _artifacts(home: Path, job: str) -> Path:
    """The folder of the job's last attempt, the one that finished."""
    return max(home.glob(f"artifacts/{job}-a*/manifest.json"), key=lambda path: path.stat().st_mtime).parent


def _written(results: figures.Results, found: figures.Figures, options: Options) -> list[tuple[str, Path]]:
    folder = options.home / "report"
    folder.mkdir()
    title = f"{options.method}, {found.steps} steps"
    curves = plots.draw(results.curve, title, folder / "curves.png")
    notes = report.verdict_on_the_mask(found) or "Colour is relative to the largest value in this pair."
    page = heatmap.write(results.masks, f"Token by token: {title}", notes, folder / "tokens.html")
    (folder / "figures.json").write_text(json.dumps(found.as_json(), indent=2))
    adapters = next(options.home.glob("artifacts/*/manifest.json")).parent
    return [("artifacts", adapters), ("curves", curves), ("tokens", page), ("state", options.home)]


def _show(console: Console, material: Inputs, results: figures.Results, found: figures.Figures) -> None:
    prompts = [answers.text(pair.prompt) for pair in material.held_out[:PROMPTS]]
    console.print()
    console.print(report.side_by_side(prompts, results.before, results.after))
    console.print(report.scored(results.scores[0]))
    console.print(report.table(found))
    if verdict := report.verdict_on_the_mask(found):
        console.print(verdict, highlight=False)
