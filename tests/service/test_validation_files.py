"""Validation files over HTTP: what is refused, and what a checkpoint says of them."""

from __future__ import annotations

import json

import pytest

from service.launchers.base import attempt_name


def test_a_jobs_validation_file_reaches_its_attempt(create, upload, until, settings):
    file = upload()["id"]
    job = until(create(validation_file=file)["id"], "succeeded")
    assert job["validation_file"] == file
    assignment = json.loads((settings.artifacts / attempt_name(job["id"], 1) / "spec.json").read_text())
    assert assignment["validation_path"] == str(settings.files / file)


def test_checkpoints_give_the_loss_of_the_whole_validation_file_under_both_of_openais_names(api, create, upload, until):
    job = until(create(validation_file=upload()["id"])["id"], "succeeded")["id"]
    [checkpoint] = api.get(f"/v1/fine_tuning/jobs/{job}/checkpoints").json()["data"]
    assert checkpoint["metrics"] == {"step": 2, "train_loss": 0.5, "valid_loss": 0.6, "full_valid_loss": 0.6}


def test_what_is_wrong_with_a_validation_file_is_named_by_its_line_and_field(create, upload):
    good = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    error = create(validation_file=upload(f"{good}\nnot json\n")["id"])["error"]
    assert (error["param"], error["code"]) == ("validation_file", "invalid_validation_file")
    assert "line 2: not valid JSON" in error["message"]


def test_a_validation_file_of_another_tenant_does_not_exist(stranger, upload, create):
    body = {"files": {"file": ("p.jsonl", "x")}, "data": {"purpose": "fine-tune"}}
    theirs = stranger.post("/v1/files", **body).json()["id"]
    error = create(validation_file=theirs)["error"]
    assert error["param"] == "validation_file"
    assert error["message"] == f"there is no file {theirs!r}"


@pytest.mark.parametrize("method", ["dpo", "sparsepo"])
@pytest.mark.parametrize(("field", "value"), [("eval_steps", 5), ("early_stopping_patience", 2), ("keep", "best")])
def test_settings_that_speak_of_the_validation_file_need_one(create, upload, method, field, value):
    asked = {"type": method, method: {"hyperparameters": {field: value}}}
    error = create(method=asked)["error"]
    assert error["param"] == f"method.{method}.hyperparameters.{field}"
    assert error["message"] == f"{field} needs a validation_file"
    job = create(method=asked, validation_file=upload()["id"])
    assert job["method"][method]["hyperparameters"][field] == value


@pytest.mark.parametrize("beta", [0, -0.1])
@pytest.mark.parametrize("method", ["dpo", "sparsepo"])
def test_a_beta_that_is_not_positive_is_refused_in_its_fields_name(create, method, beta):
    error = create(method={"type": method, method: {"hyperparameters": {"beta": beta}}})["error"]
    assert error["param"] == f"method.{method}.hyperparameters.beta"
    assert "greater than 0" in error["message"]


def test_a_failed_job_still_lists_the_checkpoints_it_had_written(api, create, until):
    job = until(create("fail")["id"], "failed")
    assert job["error"]["message"] == "the loss became NaN at step 3"
    [checkpoint] = api.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
    assert checkpoint["step_number"] == 2
