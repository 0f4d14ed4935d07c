"""A running service as its users see it: jobs, samples and scores over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from openai import OpenAI

from bench.real_input import Row
from examples.demo import tuning
from examples.demo.control_plane import ControlPlane
from examples.demo.tuning import Event, Tuned

BASE = "stories"
PATIENCE = 600.0  #: seconds; the first request waits for an engine
AT_ONCE = 64  #: samples or scores in one request


@dataclass(frozen=True)
class Served:
    """The service with its one base model."""

    plane: ControlPlane

    @property
    def client(self) -> OpenAI:
        """The official client."""
        return OpenAI(base_url=f"{self.plane.url}/v1", api_key=self.plane.key, timeout=PATIENCE, max_retries=0)

    def tune(self, rows: Sequence[Row], kind: str, settings: Row) -> tuple[Tuned, list[str]]:
        """Upload, train a LoRA of rank 16, wait; with what its events said. Raises tuning.JobFailed."""
        client, said = self.client, list[str]()
        file = client.files.create(file=("rows.jsonl", _lines(rows)), purpose="fine-tune")
        method: Any = {"type": kind, kind: {"hyperparameters": settings}}
        peft = {"peft": {"r": 16, "lora_alpha": 32}}
        job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, method=method, extra_body=peft)

        def seen(event: Event) -> None:
            if not event.metrics:
                said.append(event.message)

        try:
            return tuning.follow(client, job, seen), said
        except KeyboardInterrupt:
            tuning.cancel(client, job.id)  # a service that stops leaves its jobs running
            raise

    def masks(self, job: str) -> list[Row]:
        """The examples of the job's `token_masks.json`."""
        [path] = self.plane.home.glob(f"artifacts/{job}-a*/token_masks.json")
        shown: list[Row] = json.loads(path.read_text())["examples"]
        return shown

    def stories(self, model: str, count: int, tokens: int, seed: int) -> list[Row]:
        """So many samples of the empty story; another seed shares none of them, for sample i is drawn with seed + i."""
        starts = range(0, count, AT_ONCE)
        return [row for i in starts for row in self._sampled(model, [[1]], tokens, 10_000 * seed + i, n=AT_ONCE)]

    def answers(self, model: str, prompts: Sequence[str], tokens: int, seed: int) -> list[Row]:
        """One sample of each prompt."""
        chunks = [list(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)]
        return [row for i, chunk in enumerate(chunks) for row in self._sampled(model, chunk, tokens, seed + i, n=1)]

    def _sampled(self, model: str, prompts: list[Any], tokens: int, seed: int, n: int) -> list[Row]:
        """`{"text", "ids"}` of each choice, at temperature 1 from the whole distribution."""
        answer = self.client.completions.create(
            model=model,
            prompt=prompts,
            n=n,
            seed=seed,
            temperature=1,
            top_p=1,
            max_tokens=tokens,
            extra_body={"return_token_ids": True, "top_k": 0},
        )
        return [choice.model_dump(include={"text", "token_ids", "prompt_token_ids"}) for choice in answer.choices]

    def scores(self, strong: str, inputs: Sequence[Row]) -> list[Row]:
        """The density ratio over the base model of each `{"prompt", "response"}`, with log-probs per token."""
        found: list[Row] = []
        headers = {"Authorization": f"Bearer {self.plane.key}"}
        model = {"type": "density_ratio", "strong": strong, "weak": BASE}
        for start in range(0, len(inputs), AT_ONCE):
            body = {"model": model, "input": list(inputs[start : start + AT_ONCE]), "include": ["logprobs"]}
            answer = httpx.post(f"{self.plane.url}/v1/rewards", json=body, headers=headers, timeout=PATIENCE)
            if answer.is_error:
                raise RuntimeError(answer.text)
            found += answer.json()["data"]
        return found


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
