"""Webhooks: signed as the official client verifies them, delivered at least once, to public addresses only."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import openai
import pytest
from openai import BadRequestError, NotFoundError
from sqlalchemy import select, update

from service import webhooks
from service.db.tables import Delivery

PAIR = json.dumps({"prompt": "How was it?", "chosen": "Splendid.", "rejected": "Dreadful."})


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"outgoing_networks": (ip_network("127.0.0.0/8"),)})


class Receiver(ThreadingHTTPServer):
    """Keeps what it is told; answers with `statuses`, then 200."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.told, self.statuses = [], []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told.append((body, dict(self.headers)))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(client, receiver):
    kinds = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
    return client.webhooks.create(name="mine", url=receiver.url, event_types=kinds)


def told(receiver, count=1, timeout=20):
    deadline = time.monotonic() + timeout
    while len(receiver.told) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return receiver.told


def test_the_official_client_verifies_what_it_is_told(client, receiver, endpoint, create, until):
    for act, kind in (("succeed", "succeeded"), ("fail", "failed")):
        job = create(act)["id"]
        until(job, kind)
        body, headers = told(receiver)[-1]
        receiver.told.clear()
        event = client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
        assert (event.type, event.data.id) == (f"fine_tuning.job.{kind}", job)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body + b" ", headers, secret=endpoint.signing_secret)


def test_a_cancelled_queued_job_is_told_too_and_only_what_was_asked_for(client, receiver, create, until):
    client.webhooks.create(name="mine", url=receiver.url, event_types=["fine_tuning.job.cancelled"])
    job = create("work")["id"]
    client.fine_tuning.jobs.cancel(job)
    until(job, "cancelled")
    until(create()["id"], "succeeded")
    [(body, _)] = told(receiver)
    assert json.loads(body)["data"] == {"id": job}


def test_what_was_not_taken_is_told_again_under_the_same_id(parts, receiver, endpoint, create, until):
    receiver.statuses = [500, 302]
    until(create()["id"], "succeeded")
    for count, answer in ((2, "500"), (3, "302")):
        _until_settled(parts, answer)
        with parts.database.transaction() as db:
            db.execute(update(Delivery).values(due_at=0.0))
        told(receiver, count)
    assert len({headers["webhook-id"] for _, headers in receiver.told}) == 1
    _until_settled(parts, "200")
    with parts.database.snapshot() as db:
        assert [(d.tries, d.answer) for d in db.scalars(select(Delivery))] == [(3, "200")]


def _until_settled(parts, answer):
    deadline = time.monotonic() + 20
    while True:
        with parts.database.snapshot() as db:
            [delivery] = db.scalars(select(Delivery))
        if delivery.answer == answer:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_delivery_is_taken_by_one_courier_at_a_time_and_given_up_in_the_end(parts, endpoint):
    parts.close()
    with parts.database.transaction() as db:
        row = webhooks.get(db, endpoint.id, tenant="ada")
        db.add(webhooks.telling(row, "fine_tuning.job.failed", {"id": "x"}))
    for tries in range(1, len(webhooks.PAUSES) + 2):
        with parts.database.transaction() as db:
            [due] = webhooks.take(db)
        assert due.delivery.tries == tries
        with parts.database.transaction() as db:
            assert webhooks.take(db) == []
            webhooks.settle(db, due.delivery, delivered=False, answer="500")
            db.execute(update(Delivery).values(due_at=0.0))
    with parts.database.transaction() as db:
        assert webhooks.take(db) == []


def test_endpoints_are_listed_changed_tried_and_deleted(client, receiver, endpoint, stranger):
    assert [e.id for e in client.webhooks.list()] == [endpoint.id]
    assert "signing_secret" not in client.webhooks.retrieve(endpoint.id).model_dump()
    assert client.webhooks.update(endpoint.id, name="other").name == "other"
    fresh = client.webhooks.rotate_secret(endpoint.id)
    assert fresh.signing_secret != endpoint.signing_secret
    assert client.webhooks.test(endpoint.id, event_type="fine_tuning.job.failed").status_code == 200
    [(body, headers)] = receiver.told
    assert client.webhooks.unwrap(body, headers, secret=fresh.signing_secret).type == "fine_tuning.job.failed"
    assert stranger.get(f"/v1/webhook_endpoints/{endpoint.id}").status_code == 404
    assert client.webhooks.delete(endpoint.id).deleted
    with pytest.raises(NotFoundError):
        client.webhooks.retrieve(endpoint.id)


def test_the_secret_is_kept_nowhere(settings, endpoint):
    kept = b"".join(path.read_bytes() for path in settings.home.glob("prefserve.db*"))
    assert endpoint.signing_secret.encode() not in kept


@pytest.mark.parametrize(
    "url", ["ftp://example.com/x", "https://u:p@example.com/", "https:///x", "no url", "https://ex ample.com"]
)
def test_a_url_that_is_not_called_is_refused_at_once(client, url):
    with pytest.raises(BadRequestError) as refused:
        client.webhooks.create(name="mine", url=url, event_types=["fine_tuning.job.failed"])
    assert refused.value.param == "url"
