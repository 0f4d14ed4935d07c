"""What is too large, too long or too deep is refused while it is read, and leaves nothing behind."""

import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from sqlalchemy import update

from service.db.tables import File, now
from service.lines import check, depth
from trainers.data.lines import BadLine

PAIR = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})


one_database = pytest.mark.parametrize("database_url", [None], indirect=True, ids=["any"])


@pytest.fixture
def settings(settings):
    small = {"max_body_bytes": 2000, "max_file_bytes": 100_000, "max_line_bytes": 1000, "max_nesting": 8}
    return settings.model_copy(update=small)


@one_database
def test_a_body_that_is_announced_or_turns_out_too_large_is_a_413(api):
    def chunks():
        yield from [b" " * 1000] * 3

    for content in (b" " * 3000, chunks()):
        answer = api.post("/v1/fine_tuning/jobs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        error = answer.json()["error"]
        assert (error["code"], error["message"]) == ("request_too_large", "the body is larger than 2000 bytes")
        assert answer.headers["x-should-retry"] == "false"


@one_database
def test_an_upload_is_refused_where_it_passes_the_limit_not_when_it_has_ended(client, settings):
    """The client says that it sends 5 GB, sends 1 MB, and has its answer."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(10)
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.api_key}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 200_000
        connection.sendall(head.encode() + f"{len(part):x}\r\n".encode() + part + b"\r\n")
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert list(settings.files.iterdir()) == []


@one_database
def test_an_upload_that_breaks_off_leaves_nothing(client, settings):
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.api_key}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello'
        connection.sendall((head + part).encode())
        eventually(lambda: list(settings.files.iterdir()))
    eventually(lambda: not list(settings.files.iterdir()))


def eventually(look):
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@one_database
@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (b"", "multipart/form-data; boundary=b", "file"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", "file"),
        (b"no form at all", "multipart/form-data; boundary=b", "file"),
        (b"{}", "application/json", "file"),
        (b"x", "multipart/form-data", "file"),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello\r\n--b--\r\n', "multipart/form-data; boundary=b", "purpose"),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n', "multipart/form-data; boundary=b", "file"),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 20_000 + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", "purpose"),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhel', "multipart/form-data; boundary=b", "file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_upload_is_named(api, settings, body, kind, param):
    answer = api.post("/v1/files", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert list(settings.files.iterdir()) == []


@one_database
@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after.seconds"),
        ({"expires_after[anchor]": "last_used", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
    ],
)
def test_an_expiry_that_is_none_is_named(api, extra, param):
    answer = api.post("/v1/files", files={"file": ("x", b"x")}, data={"purpose": "fine-tune", **extra})
    assert answer.json()["error"]["param"] == param


def test_a_file_that_has_expired_is_gone_and_swept(api, parts, settings):
    data = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = api.post("/v1/files", files={"file": ("x", b"x")}, data=data).json()["id"]
    with parts.database.transaction() as db:
        db.execute(update(File).values(expires_at=now()))
    assert api.get(f"/v1/files/{file}").status_code == 404
    assert api.get("/v1/files").json()["data"] == []
    parts.courier.sweep()
    assert list(settings.files.iterdir()) == []


@one_database
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAIR + "\n" + json.dumps({"prompt": "x" * 2000}), "line 2: is longer than 1000 bytes"),
        ("[" * 400 + "]" * 400, "line 1: is nested deeper than 8 levels"),
        ('{"prompt": "a", "chosen": ' + '{"a": ' * 9 + "1" + "}" * 10, "line 1: is nested deeper than 8 levels"),
    ],
)
def test_a_line_too_long_or_too_deep_is_named(create, upload, content, words):
    error = create(training_file=upload(content)["id"])["error"]
    assert (error["param"], error["code"]) == ("training_file", "invalid_training_file")
    assert words in error["message"]


@one_database
def test_a_json_body_of_brackets_alone_is_a_400(api):
    answer = api.post("/v1/fine_tuning/jobs", content=b"[" * 1900, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "path", ["/v1/files/%00", "/v1/models/%00", "/v1/fine_tuning/jobs?after=%00", "/v1/files?purpose=%00"]
)
def test_what_no_database_can_hold_is_the_requests_fault(api, path):
    assert api.get(path).status_code < 500


def test_half_a_character_is_the_requests_fault(api):
    body = b'{"model": "\\ud800", "training_file": "x", "method": {"type": "dpo"}}'
    answer = api.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@limits(max_examples=50)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_depth_counts_what_json_nests(value):
    def nested(part):
        if isinstance(part, list):
            return 1 + max(map(nested, part), default=0)
        return 1 + max(map(nested, part.values()), default=0) if isinstance(part, dict) else 0

    assert depth(json.dumps(value).encode()) == nested(value)


def test_a_line_as_long_as_it_may_be_is_taken(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 10 + b"\n" + b"y" * 10)
    check(tmp_path / "x", line_bytes=10, nesting=1)
    with pytest.raises(BadLine, match="line 1"):
        check(tmp_path / "x", line_bytes=9, nesting=1)
