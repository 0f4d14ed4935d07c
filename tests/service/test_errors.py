"""Every error leaves in OpenAI's envelope."""

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError

from service.errors import Refusal


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/files", 405),
        ("GET", "/v1/files?limit=x", 400),
        ("POST", "/v1/files", 400),
    ],
)
def test_errors_of_the_framework_are_in_the_envelope_too(api, method, path, status):
    answer = api.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_body_that_is_not_json_is_a_400_that_says_so(api):
    answer = api.post("/v1/fine_tuning/jobs", content="{not json", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_a_fault_of_ours_is_a_500_with_the_request_id_and_no_detail(api, parts):
    with parts.database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE files RENAME TO mislaid")
    answer = api.get("/v1/files")
    with parts.database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE mislaid RENAME TO files")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "internal_error"
    assert answer.headers["x-request-id"] in error["message"]
    assert "files" not in error["message"]
    assert api.get("/v1/files").status_code == 200


def test_all_refusals_have_a_status_and_a_type():
    for kind in [Refusal, *Refusal.__subclasses__()]:
        envelope = kind("a sentence", param="x").envelope()["error"]
        assert 400 <= kind.status < 600
        assert envelope["message"] == "a sentence"
        assert envelope["param"] == "x"


def test_the_official_client_raises_its_own_errors(start_service):
    service = start_service({})
    with pytest.raises(NotFoundError) as missing:
        service.client.fine_tuning.jobs.retrieve("ftjob-none")
    assert (missing.value.code, missing.value.param) == ("not_found", "fine_tuning_job_id")
    assert missing.value.request_id.startswith("req-")
    with pytest.raises(AuthenticationError):
        service.client.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(BadRequestError, match="method: "):
        service.client.fine_tuning.jobs.create(model="m", training_file="f")
