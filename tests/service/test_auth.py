"""No path but two answers without a key."""

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Route

from service import keys
from service.auth import OPEN


def paths(app):
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        yield from paths(inner) if inner is not None else [route]


@pytest.mark.parametrize("key", [None, "sk-wrong", ""])
def test_every_route_but_two_is_closed_without_a_valid_key(api, key):
    client = TestClient(api.app, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    closed = 0
    for route in paths(api.app):
        assert isinstance(route, APIRoute | Route), f"{route} is of a kind this test does not know"
        for method in route.methods or ():
            answer = client.request(method, route.path.replace("{attempt}", "1"))
            if route.path in OPEN:
                continue
            closed += 1
            assert answer.status_code == 401, (method, route.path)
            if method != "HEAD":
                assert answer.json()["error"]["code"] == "invalid_api_key"
    assert closed > 20


def test_unknown_paths_are_closed_too(api):
    assert TestClient(api.app).get("/v1/nothing").status_code == 401
    assert api.get("/v1/nothing").json()["error"]["message"] == "Not Found"


def test_the_two_open_paths_answer_without_a_key(api):
    client = TestClient(api.app)
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_api_document_says_which_paths_need_a_key(api):
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        assert all(("security" in method) == (path not in OPEN) for method in methods.values()), path


def test_a_revoked_key_is_refused(api, parts):
    with parts.database.transaction() as db:
        keys.revoke(db, keys.everything(db)[0].id)
    assert api.get("/v1/models").status_code == 401


def test_keys_are_kept_as_hashes_only(api, settings):
    text = api.headers["Authorization"].removeprefix("Bearer ")
    kept = b"".join(path.read_bytes() for path in settings.home.glob("prefserve.db*"))
    assert text.encode() not in kept


def test_an_attempts_token_opens_its_own_events_and_nothing_else(api, create, until, settings):
    job = create("work")["id"]
    until(job, "running")
    token = keys.attempt_token(settings.secret, job, 1)
    worker = TestClient(api.app, headers={"Authorization": f"Bearer {token}"})
    event = {"seq": 9, "created_at": 1, "level": "info", "type": "message", "message": "hello", "data": {}}
    assert worker.post(f"/internal/attempts/{job}/1/events", json={"events": [event]}).status_code == 204
    assert worker.post(f"/internal/attempts/{job}/2/events", json={"events": [event]}).status_code == 401
    assert worker.get("/v1/models").status_code == 401
    assert api.post(f"/internal/attempts/{job}/1/events", json={"events": [event]}).status_code == 401


def test_every_answer_has_a_request_id(api):
    ids = {api.get(path).headers["x-request-id"] for path in ("/livez", "/v1/nothing", "/v1/models")}
    ids.add(TestClient(api.app).get("/v1/models").headers["x-request-id"])
    assert len(ids) == 4
