"""The command line, as an operator types it."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def prefserve(tmp_path):
    def run(*argv):
        command = [sys.executable, "-m", "service.cli", "--home", str(tmp_path / "home"), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_a_base_model_is_added_and_listed_with_its_digest(prefserve, base_folder):
    added = prefserve("models", "add", "tiny", str(base_folder))
    assert added.returncode == 0, added.stderr
    assert "no chat template" in added.stdout
    digest = added.stdout.split("digest ")[1][:12]
    assert digest in prefserve("models", "list").stdout


def test_what_is_no_model_is_refused_in_one_line(prefserve, tmp_path):
    for source in (str(tmp_path), "org/name@main", "/nowhere"):
        refused = prefserve("models", "add", "tiny", source)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr.startswith("prefserve: ")
        assert refused.stderr.count("\n") == 1


def test_a_model_the_engine_cannot_serve_is_refused_when_it_is_added(prefserve, base_folder):
    config = base_folder / "config.json"
    config.write_text(config.read_text().replace('"head_dim": 32', '"head_dim": 8'))
    refused = prefserve("models", "add", "tiny", str(base_folder))
    assert refused.returncode == 1
    assert "head_dim" in refused.stderr


def test_keys_are_made_listed_and_revoked(prefserve):
    made = prefserve("keys", "create", "--tenant", "ada").stdout
    key_id, text = made.split()[0], made.split()[-1]
    assert text.startswith("sk-")
    listed = prefserve("keys", "list").stdout
    assert "ada" in listed
    assert text not in listed
    assert prefserve("keys", "revoke", key_id).returncode == 0
    assert prefserve("keys", "revoke", key_id).returncode == 1


def test_a_second_service_on_the_same_home_and_a_taken_port_are_refused(start_service):
    service = start_service({})
    port = service.url.rpartition(":")[2]
    for home, words in (
        (service.home, "another prefserve runs"),
        (service.home / "other", f"cannot listen on 127.0.0.1:{port}"),
    ):
        argv = [sys.executable, "-m", "service.cli", "--home", str(home), "up", "--port", port]
        refused = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 1
        assert words in refused.stderr


def test_a_reward_is_evaluated_from_the_command_line(start_service, prefserve, tmp_path):
    service = start_service({})
    pairs = tmp_path / "pairs.jsonl"
    rows = [("good", "bad", "chat"), ("bad", "good", "code"), ("good", "bad", "code")]
    pairs.write_text(
        "".join(json.dumps({"prompt": "q", "chosen": c, "rejected": r, "subset": s}) + "\n" for c, r, s in rows)
    )
    where = ("--url", service.url, "--key", service.client.api_key)
    model = json.dumps({"type": "lexicon", "weights": {"good": 1}})
    done = prefserve("rewards", "evaluate", str(pairs), "--model", model, *where)
    assert done.returncode == 0, done.stderr
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[:2] + row[3:] for row in shown] == [
        ["chat", "1.000", "1", "0", "1.000"],
        ["code", "0.500", "2", "0", "0.000"],
        ["all", "0.667", "3", "0", "0.333"],
    ]
    assert service.client.files.list().data == []
    for argv, words in (
        (("--model", "gone", *where), "no reward model 'gone'"),
        (("--model", "x", "--url", "http://127.0.0.1:9", "--key", "k"), "nobody answers"),
    ):
        refused = prefserve("rewards", "evaluate", str(pairs), *argv)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert words in refused.stderr
