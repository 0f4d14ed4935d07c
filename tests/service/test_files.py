"""Uploads over HTTP."""

import json


def test_an_upload_comes_back_byte_for_byte(api, upload):
    file = upload("é\r\nline two\n")
    assert file["object"] == "file"
    assert file["bytes"] == len("é\r\nline two\n".encode())
    assert file["status"] == "processed"
    assert api.get(f"/v1/files/{file['id']}").json() == file
    assert api.get(f"/v1/files/{file['id']}/content").content == "é\r\nline two\n".encode()


def test_lists_page_by_cursor_newest_first(api, upload):
    ids = [upload()["id"] for _ in range(3)]
    page = api.get("/v1/files", params={"limit": 2}).json()
    assert [file["id"] for file in page["data"]] == ids[:0:-1]
    assert page["has_more"] is True
    rest = api.get("/v1/files", params={"limit": 2, "after": page["last_id"]}).json()
    assert [file["id"] for file in rest["data"]] == ids[:1]
    assert rest["has_more"] is False


def test_a_deleted_file_is_gone_with_its_bytes(api, upload, settings):
    file = upload()["id"]
    assert api.delete(f"/v1/files/{file}").json() == {"id": file, "object": "file", "deleted": True}
    assert api.get(f"/v1/files/{file}").status_code == 404
    assert list(settings.files.iterdir()) == []


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(upload, settings):
    assert upload("x" * 100_001)["error"]["code"] == "request_too_large"
    assert list(settings.files.iterdir()) == []


def test_an_unknown_purpose_and_an_empty_file_are_refused_by_name(upload):
    assert upload(purpose="made-up")["error"]["param"] == "purpose"
    assert "is empty" in upload("")["error"]["message"]


def test_a_strangers_file_does_not_exist(stranger, upload):
    file = upload()["id"]
    for answer in (stranger.get(f"/v1/files/{file}"), stranger.get(f"/v1/files/{file}/content")):
        assert answer.status_code == 404
    assert stranger.delete(f"/v1/files/{file}").status_code == 404
    assert stranger.get("/v1/files").json()["data"] == []


def test_a_client_cannot_name_a_path(api, settings):
    (settings.home / "outside").write_text("secret")
    for name in ("../outside", "..%2Foutside", "%2e%2e/outside"):
        assert api.get(f"/v1/files/{name}/content").status_code == 404
    answer = api.post("/v1/files", files={"file": ("../../evil.jsonl", json.dumps({}))}, data={"purpose": "fine-tune"})
    assert answer.json()["filename"] == "evil.jsonl"
