"""A creation that is sent again makes no second job."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from service import keys
from service.db.tables import Job, now


@pytest.fixture
def send(api, upload):
    file = upload()["id"]

    def post(headers=None, act="work", client=api):
        body = {"model": "tiny", "method": {"type": "dpo"}, "metadata": {"act": act}, "training_file": file}
        return client.post("/v1/fine_tuning/jobs", json=body, headers=headers or {})

    return post


def test_fifty_at_once_with_one_key_are_one_job(send, parts):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: send({"Idempotency-Key": "k1"}), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    with parts.database.snapshot() as db:
        assert len(list(db.scalars(select(Job.id)))) == 1


def test_the_same_key_with_another_body_is_refused(send):
    send({"Idempotency-Key": "k1"})
    refused = send({"Idempotency-Key": "k1"}, act="succeed")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reuse")
    assert refused.headers["x-should-retry"] == "false"


def test_a_key_is_its_tenants_own_and_is_forgotten_after_a_day(send, parts):
    first = send({"Idempotency-Key": "k1"}).json()["id"]
    with parts.database.transaction() as db:
        db.execute(update(Job).values(created_at=now() - 24 * 3600 - 1))
    assert send({"Idempotency-Key": "k1"}).json()["id"] != first


def test_a_clients_retry_without_a_key_finds_the_job_of_its_first_try(send):
    first = send().json()["id"]
    assert send({"x-stainless-retry-count": "1"}).json()["id"] == first
    assert send({"x-stainless-retry-count": "2"}).json()["id"] == first
    assert send({"x-stainless-retry-count": "1"}, act="succeed").json()["id"] != first


def test_the_same_request_meant_anew_is_a_new_job(send):
    assert send().json()["id"] != send().json()["id"]


def test_a_retry_after_a_quarter_of_an_hour_or_by_another_key_is_a_new_job(api, send, parts):
    first = send().json()["id"]
    with parts.database.transaction() as db:
        _, text = keys.create(db, tenant="ada", name="second")
    other = {"Authorization": f"Bearer {text}", "x-stainless-retry-count": "1"}
    assert send(other).json()["id"] != first
    with parts.database.transaction() as db:
        db.execute(update(Job).values(created_at=now() - 15 * 60 - 1))
    assert send({"x-stainless-retry-count": "1"}).json()["id"] != first
