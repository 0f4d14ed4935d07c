"""How a policy will be served: said at submit, kept to, gone on from. Stand-ins play the trainer and vLLM."""

import json
import time
from pathlib import Path

import pytest

from service import processes
from service.registry import digest
from service.settings import Settings

PROGRAM = Path(__file__).with_name("worker_program.py")
ENGINE = Path(__file__).parents[1] / "serving" / "engine_program.py"


@pytest.fixture
def settings(tmp_path, request):
    """With the stand-in for vLLM, and so many engines at once."""
    return Settings(
        home=tmp_path / "home",
        trainer_python=PROGRAM,
        serving_python=ENGINE,
        extensions_dir=tmp_path / "extensions",
        tick_seconds=0.02,
        max_engines=getattr(request, "param", 3),
    )


@pytest.fixture
def policy(create, until):
    """Train something to its end; its public id."""

    def make(**fields):
        return until(create(**fields)["id"], "succeeded")["fine_tuned_model"]

    return make


@pytest.fixture
def complete(api):
    def ask(model):
        return api.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 1})

    return ask


def engines(api) -> dict[str, str]:
    return {engine["base"]: engine["state"] for engine in api.get("/v1/engines").json()["data"]}


def spec_of(settings, job: str) -> dict:
    return json.loads((settings.artifacts / f"{job}-a1" / "spec.json").read_text())


@pytest.mark.parametrize(
    ("asked", "serving"),
    [
        ({}, "adapter"),
        ({"peft": {"r": 64, "use_rslora": True}}, "adapter"),
        ({"peft": {"r": 8}, "serving": "merged"}, "merged"),
        ({"peft": {"r": 65}}, "merged"),
        ({"peft": {"target_modules": ["qkv_proj"]}}, "merged"),
        ({"peft": {"use_dora": True}}, "merged"),
        ({"peft": {"type": "full"}}, "merged"),
        ({"peft": {"type": "ia3"}}, "merged"),
        ({"peft": {"type": "oft"}}, "merged"),
        ({"peft": {"type": "vera", "r": 32}}, "merged"),
    ],
)
def test_a_job_says_at_submit_how_its_policy_will_be_served(api, create, asked, serving):
    job = create("work", **asked)
    assert job["serving"] == serving
    assert api.get(f"/v1/fine_tuning/jobs/{job['id']}").json()["serving"] == serving
    first = api.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"][-1]["message"]
    said = {"adapter": "served as an adapter in its base", "merged": "served as merged weights by an engine of its own"}
    assert said[serving] in first
    api.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")


def test_a_merged_policy_answers_from_an_engine_of_its_own_until_it_is_deleted(api, policy, complete, settings):
    model = policy(peft={"type": "full"})
    assert api.get(f"/v1/models/{model}").json()["parent"] == "tiny"
    assert complete("tiny").status_code == complete(model).status_code == 200
    assert engines(api) == {"tiny": "ready", model: "ready"}
    process = processes.find(settings.engine.folder(model))
    assert process.alive
    assert api.delete(f"/v1/models/{model}").status_code == 200
    deadline = time.monotonic() + 10
    while process.alive:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert engines(api) == {"tiny": "ready"}
    assert complete(model).json()["error"]["code"] == "model_not_found"


def test_a_strangers_merged_policy_is_seen_nowhere(api, stranger, policy, complete):
    model = policy(peft={"type": "full"})
    complete(model)
    assert model in engines(api)
    assert engines(stranger) == {}
    assert stranger.get(f"/v1/models/{model}").status_code == 404


def test_an_adapter_on_merged_weights_is_loaded_into_their_engine(api, create, until, policy, complete, settings):
    first = policy(peft={"type": "full"})
    job = until(create(model=first, peft={"r": 8})["id"], "succeeded")
    assert job["serving"] == "adapter"
    given = spec_of(settings, job["id"])
    assert (given["base_model"], given["merged_model"], given["adapter_path"]) == ("tiny", first, None)
    folder = Path(given["model_path"])
    assert folder.name == "merged"
    assert (folder / "model.safetensors").read_bytes().decode() in given["model_path"]
    second = job["fine_tuned_model"]
    assert second.startswith("ft:tiny:local:")
    assert complete(second).status_code == 200
    assert engines(api) == {first: "ready"}
    assert (folder / "loaded").read_text() == f"{job['id']}-a1\n"
    third = spec_of(settings, until(create(model=second)["id"], "succeeded")["id"])
    assert (third["model_path"], third["merged_model"]) == (str(folder), first)
    assert third["adapter_path"].endswith(f"{job['id']}-a1/adapter")


def test_the_digest_of_merged_weights_is_that_of_their_folder(create, until, policy, settings):
    given = spec_of(settings, until(create(model=policy(peft={"type": "full"}))["id"], "succeeded")["id"])
    folder = Path(given["model_path"])
    for left in ("starts", "loaded"):  # by the engine's stand-in
        (folder / left).unlink(missing_ok=True)
    assert given["model_digest"] == digest(folder)


def test_going_on_from_a_policy_counts_both_ranks(create, until, policy):
    model = policy(peft={"r": 40})
    assert create(model=model, peft={"r": 24})["serving"] == "adapter"
    assert create(model=model, peft={"r": 25})["serving"] == "merged"
    refused = create(model=model, peft={"r": 40}, serving="adapter")["error"]
    assert refused["param"] == "peft.r"
    assert "would have 80, engines take 64: this job can only be served merged" in refused["message"]


@pytest.mark.parametrize("settings", [1], indirect=True)
def test_a_reward_of_a_merged_policy_over_its_base_needs_two_engines(api, policy):
    reward = {"type": "density_ratio", "strong": policy(peft={"type": "full"}), "weak": "tiny"}
    answer = api.post("/v1/rewards", json={"model": reward, "input": [{"prompt": "a", "response": "b"}]})
    assert answer.json()["error"]["message"] == "this reward needs 2 engines at once; the service runs 1"
