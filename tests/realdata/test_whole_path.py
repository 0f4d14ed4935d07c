"""The whole path over HTTP on a real model: samples → ranked pairs → DPO → served policy → rewards → SparsePO on top."""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.realdata, pytest.mark.vllm, pytest.mark.deepspeed]

PAIRS, TOKENS = 228, 150


@pytest.fixture(scope="module")
def service(start_service, realdata):
    models = realdata / "models"
    return start_service({"stories": models / "stories260k-hd32", "weak": models / "stories260k-qatA-weak-hd32"})


@pytest.fixture(scope="module")
def afinn(realdata):
    lines = (realdata / "afinn" / "AFINN-111.txt").read_text().splitlines()
    worth = {word: int(value) for word, value in (line.split("\t") for line in lines)}
    return lambda text: sum(worth.get(word, 0) for word in re.findall(r"[a-z'-]+", text.lower()))


def sample(service, model: str, count: int, seed: int, prompts: list[list[int]] | None = None) -> list[Any]:
    """Fresh samples at temperature 1 with their token ids: so many from the story's beginning, or one per prompt."""
    answer = service.client.completions.create(
        model=model,
        prompt=prompts or [1],
        n=1 if prompts else count,
        seed=1000 * seed,  # sample i of n is drawn with seed + i
        temperature=1,
        max_tokens=TOKENS,
        extra_body={"return_token_ids": True},
    )
    return answer.choices


def tune(service, model: str, file: str, kind: str, peft: dict[str, Any] | None = None, **hyperparameters: Any) -> Any:
    job = service.client.fine_tuning.jobs.create(
        model=model,
        training_file=file,
        method={"type": kind, kind: {"hyperparameters": hyperparameters}},
        extra_body={"peft": peft or {"r": 16, "lora_alpha": 32}},
    )
    deadline = time.monotonic() + 300
    while (job := service.client.fine_tuning.jobs.retrieve(job.id)).status in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert job.status == "succeeded", job.error
    return job


def losses(service, job: str) -> list[float]:
    events = service.client.fine_tuning.jobs.list_events(job, limit=1000).data
    return [event.data["train_loss"] for event in reversed(events) if event.type == "metrics"]


def reward(service, strong: str, weak: str, inputs: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    model = {"type": "density_ratio", "strong": strong, "weak": weak}
    headers = {"Authorization": f"Bearer {service.client.api_key}"}
    body = {"model": model, "input": inputs} | fields
    answer = httpx.post(f"{service.url}/v1/rewards", json=body, headers=headers, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.fixture(scope="module")
def pairs(service, afinn, tmp_path_factory) -> Path:
    """The model's own samples, best against worst by AFINN."""
    samples = [choice for seed in range(16) for choice in sample(service, "stories", 32, seed)]
    ranked = sorted(samples, key=lambda choice: afinn(choice.text))
    rows = [
        {"prompt": [1], "chosen": better.token_ids, "rejected": worse.token_ids}
        for worse, better in zip(ranked[:PAIRS], reversed(ranked), strict=False)
    ]
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def file(service, pairs) -> str:
    with pairs.open("rb") as content:
        return service.client.files.create(file=content, purpose="fine-tune").id


@pytest.fixture(scope="module")
def dpo(service, file):
    return tune(service, "stories", file, "dpo", beta=0.1, learning_rate=1e-3, n_epochs=3, batch_size=16)


def test_the_models_greedy_text_is_the_published_one(service, realdata):
    published = json.loads((realdata / "reference-vectors.json").read_text())["stories260k_greedy"]
    answer = service.client.completions.create(
        model="stories", prompt=[1], max_tokens=published["steps"], temperature=0
    )
    assert answer.choices[0].text.strip() == published["text"].strip()
    assert answer.model == "stories"
    stream = service.client.completions.create(
        model="stories", prompt=[1], max_tokens=published["steps"], temperature=0, stream=True
    )
    chunks = list(stream)
    assert len(chunks) > 100
    assert {chunk.model for chunk in chunks} == {"stories"}
    assert "".join(chunk.choices[0].text for chunk in chunks).strip() == published["text"].strip()


def test_dpo_makes_the_served_samples_happier(service, dpo, afinn):
    mean = {}
    for model in ("stories", dpo.fine_tuned_model):
        fresh = [afinn(choice.text) for seed in range(100, 108) for choice in sample(service, model, 32, seed)]
        mean[model] = statistics.mean(fresh)
    print(f"mean AFINN sum of 256 fresh samples: {mean}")
    assert mean[dpo.fine_tuned_model] >= mean["stories"] + 2
    assert losses(service, dpo.id)[0] == pytest.approx(math.log(2), abs=1e-4)


def test_a_training_job_is_cancelled_after_a_checkpoint_while_another_waits(service, file):
    jobs = service.client.fine_tuning.jobs
    asked = {
        "model": "stories",
        "training_file": file,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 50}}},
    }
    training, waiting = jobs.create(**asked), jobs.create(**asked)
    deadline = time.monotonic() + 120
    while not any(event.type == "metrics" for event in jobs.list_events(training.id).data):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert f"held by {training.id}" in jobs.retrieve(waiting.id).status_reason
    assert jobs.cancel(waiting.id).status == "cancelled"
    jobs.cancel(training.id)
    while jobs.retrieve(training.id).status == "running":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert jobs.retrieve(training.id).status == "cancelled"
    [checkpoint] = jobs.checkpoints.list(training.id).data
    last = next(event for event in jobs.list_events(training.id).data if event.type == "metrics")
    assert checkpoint.step_number == last.data["step"]


def test_the_density_ratio_tells_real_from_weak_continuations(service):
    openings = [[1, *choice.token_ids[:20]] for choice in sample(service, "stories", 50, 1000)]
    real, weak = (sample(service, model, 1, 2000, openings) for model in ("stories", "weak"))
    scores = [
        reward(
            service,
            "stories",
            "weak",
            [{"prompt": prompt, "response": choice.token_ids} for prompt, choice in zip(openings, side, strict=True)],
        )
        for side in (real, weak)
    ]
    right = sum(better["score"] > worse["score"] for better, worse in zip(*scores, strict=True))
    print(f"the density ratio ranked {right} of 50 right")
    assert right >= 48


def test_sparsepo_on_a_finished_policy_starts_at_log_2_and_is_served_as_trained(service, dpo, file):
    job = tune(service, dpo.fine_tuned_model, file, "sparsepo", learning_rate=1e-3, batch_size=16)
    assert losses(service, job.id)[0] == pytest.approx(math.log(2), abs=1e-4)
    masks = json.loads((service.home / "artifacts" / f"{job.id}-a1" / "token_masks.json").read_text())
    trained = [row[side]["log_ratio"] for row in masks["examples"][:8] for side in ("chosen", "rejected")]
    inputs = [
        {"prompt": row["prompt_ids"], "response": row[side]["ids"]}
        for row in masks["examples"][:8]
        for side in ("chosen", "rejected")
    ]
    served = reward(service, job.fine_tuned_model, dpo.fine_tuned_model, inputs, include=["token_scores"])
    for ours, theirs in zip(trained, served, strict=True):
        assert theirs["token_scores"] == pytest.approx(ours, abs=2e-3)
        assert any(abs(value) > 0.01 for value in ours)


def test_a_whole_policy_is_served_and_scored_as_trained(service, file):
    job = tune(service, "stories", file, "dpo", {"type": "full"}, learning_rate=1e-4, batch_size=16)
    assert job.serving == "merged"
    policy, folder = job.fine_tuned_model, service.home / "artifacts" / f"{job.id}-a1"
    prompt = [1, *sample(service, "stories", 1, 3000)[0].token_ids[:8]]
    answer = service.client.completions.create(
        model=policy, prompt=prompt, max_tokens=100, temperature=0, extra_body={"return_token_ids": True}
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    greedy = model.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0, len(prompt) :].tolist()
    assert answer.choices[0].token_ids == greedy[: len(answer.choices[0].token_ids)]
    assert len(answer.choices[0].token_ids) > 50
    shown = json.loads((folder / "token_masks.json").read_text())["examples"][:4]
    inputs = [{"prompt": row["prompt_ids"], "response": row["chosen"]["ids"]} for row in shown]
    scored = reward(service, policy, "stories", inputs, include=["token_scores"])
    for row, theirs in zip(shown, scored, strict=True):
        assert theirs["token_scores"] == pytest.approx(row["chosen"]["log_ratio"], abs=2e-3)
        assert any(abs(value) > 0.01 for value in theirs["token_scores"])
    service.client.models.delete(policy)
    assert policy not in [model.id for model in service.client.models.list()]
