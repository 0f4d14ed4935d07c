"""Prompts, the model's own answers, AFINN's pairs, DPO: VADER, which nothing was trained on, finds the policy happier."""

from __future__ import annotations

import json

import httpx
import pytest

from examples.annotate import Plan, run

pytestmark = [pytest.mark.realdata, pytest.mark.vllm, pytest.mark.deepspeed]

WHO = ("Lily", "Tom", "Ben", "Mia", "Sam", "Anna", "Max", "Sue")
WHERE = ("went to the park", "found a box", "saw a dog", "had a red ball", "was in the kitchen", "met a cat")
HYPERPARAMETERS = {"beta": 0.1, "learning_rate": 1e-3, "n_epochs": 3, "batch_size": 8}


def lexicon(path):
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {"type": "lexicon", "weights": {row[0]: float(row[1]) for row in rows if row[0]}}


@pytest.fixture(scope="module")
def service(start_service, realdata):
    models = realdata / "models"
    return start_service({"stories": models / "stories260k-hd32", "weak": models / "stories260k-qatA-weak-hd32"})


@pytest.fixture(scope="module")
def http(service):
    headers = {"Authorization": f"Bearer {service.client.api_key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=600, trust_env=False) as client:
        yield client


def test_the_loop_raises_a_judge_that_it_has_not_seen(http, realdata, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("loop") / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"Once upon a time, {who} {where}."}) + "\n" for who in WHO for where in WHERE)
    )
    plan = Plan(
        model="stories",
        prompts=prompts,
        reward=lexicon(realdata / "afinn" / "AFINN-111.txt"),
        judge=lexicon(realdata / "vader" / "vader_lexicon.txt"),
        method={"type": "dpo", "dpo": {"hyperparameters": HYPERPARAMETERS}},
    )
    found = run(http, plan)
    print(found)
    assert found.pairs >= 30
    assert found.after > found.before + 1


def test_the_density_ratio_ranks_real_and_weak_continuations(http):
    """Real continuations against weak ones: the published measurement is 200 of 200."""
    asked = {"temperature": 1, "return_token_ids": True}
    opening = asked | {"model": "stories", "prompt": [1], "n": 50, "max_tokens": 20}
    pairs = []
    for seed in (1000, 2000, 3000, 4000):
        prompts = [[1, *ids] for ids in sampled(http, opening | {"seed": seed})]
        rest = asked | {"prompt": prompts, "max_tokens": 150, "seed": seed + 500}
        sides = [sampled(http, rest | {"model": model}) for model in ("stories", "weak")]
        pairs += zip(prompts, *sides, strict=True)
    model = {"type": "density_ratio", "strong": "stories", "weak": "weak"}
    right = 0
    for first in range(0, 200, 100):
        compared = [
            {"first": {"prompt": prompt, "response": real}, "second": {"prompt": prompt, "response": weak}}
            for prompt, real, weak in pairs[first : first + 100]
        ]
        answer = http.post("/v1/rewards/compare", json={"model": model, "pairs": compared})
        assert answer.status_code == 200, answer.text
        right += sum(row["margin"] > 0 for row in answer.json()["data"])
    print(f"the density ratio ranked {right} of 200 right")
    assert right >= 199


def sampled(http, body):
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return [choice["token_ids"] for choice in answer.json()["choices"]]
