"""Events: written first, pushed in order, each until it is acknowledged; training never waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainers.events import Events


class Control:
    """A control plane that answers with the statuses it is given, then with 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.received: list[tuple[str | None, list[int]]] = []
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                numbers = [event["seq"] for event in body["events"]]
                control.received.append((self.headers["Authorization"], numbers))
                self.send_response(control.statuses.pop(0) if control.statuses else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/events"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def accepted(self) -> list[int]:
        return [number for _, numbers in self.received for number in numbers]


@pytest.fixture
def control() -> Iterator[Control]:
    control = Control()
    yield control
    control.server.shutdown()
    control.server.server_close()


def test_every_event_arrives_once_in_order_with_the_token(tmp_path, control):
    events = Events(tmp_path, control.url, "secret")
    for number in range(250):
        events.say(f"event {number}", {"step": number}, kind="metrics")
    events.close()
    assert control.accepted == list(range(1, 251))
    assert {token for token, _ in control.received} == {"Bearer secret"}
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 251))
    assert lines[4] | {"created_at": 0} == {
        "seq": 5,
        "created_at": 0,
        "level": "info",
        "type": "metrics",
        "message": "event 4",
        "data": {"step": 4},
    }


def test_a_failing_control_plane_gets_the_same_events_again(tmp_path, control):
    control.statuses = [500, 503]
    events = Events(tmp_path, control.url, "t")
    events.say("one")
    events.close()
    assert [numbers for _, numbers in control.received] == [[1], [1], [1]]


def test_an_absent_control_plane_costs_no_more_than_the_time_to_close(tmp_path):
    events = Events(tmp_path, "http://127.0.0.1:9/events", "t")
    started = time.monotonic()
    for _ in range(100):
        events.say("working")
    assert time.monotonic() - started < 0.5
    events.close(seconds=0.5)
    assert time.monotonic() - started < 2
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 100


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_an_attempt_that_is_no_longer_wanted_stops_pushing(tmp_path, control, status):
    control.statuses = [status]
    events = Events(tmp_path, control.url, "t")
    events.say("one")
    deadline = time.monotonic() + 5
    while not control.received and time.monotonic() < deadline:
        time.sleep(0.01)
    events.say("two")
    events.close()
    assert [numbers for _, numbers in control.received] == [[1]]


def test_a_relaunch_goes_on_counting_and_drops_a_line_cut_short(tmp_path, control):
    first = Events(tmp_path, None, "")
    first.say("one")
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"seq": 2, "mess')
    second = Events(tmp_path, control.url, "t")
    second.say("two")
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(line["seq"], line["message"]) for line in lines] == [(1, "one"), (2, "two")]
    assert control.accepted[-1] == 2
    assert set(control.accepted) == {1, 2}
