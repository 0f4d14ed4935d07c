"""Annotations: prompts answered by a stand-in engine, ranked by a real scoring process, and what survives a restart."""

import json
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.annotator import _alone
from service.app import create_app
from service.db.tables import Annotation, File
from service.states import Status
from trainers.data import records

WORDS = {"type": "lexicon", "weights": {"good": 1}}
ENGINE = Path(__file__).with_name("engine_program.py")


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"serving_python": ENGINE})


@pytest.fixture
def annotate(api, upload):
    def send(*prompts, **fields):
        content = "".join(
            json.dumps(prompt if isinstance(prompt, dict) else {"prompt": prompt}) + "\n" for prompt in prompts
        )
        body = {"prompts_file": upload(content)["id"], "model": "tiny", "reward_model": WORDS, "n": 3} | fields
        return api.post("/v1/annotations", json=body)

    return send


@pytest.fixture
def ended(api):
    def wait(annotation, client=api):
        deadline = time.monotonic() + 60
        while True:
            found = client.get(f"/v1/annotations/{annotation}").json()
            if found["status"] not in ("queued", "running"):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    return wait


def test_prompts_become_a_training_file_with_scores_and_provenance(api, annotate, ended, settings, create, until):
    turns = {"messages": [{"role": "user", "content": "there was"}], "reference": "x"}
    done = ended(annotate("once upon", "same for all", "none", turns, "refuse this").json()["id"])
    assert (done["status"], done["prompts"], done["done"]) == ("succeeded", 5, 5)
    assert done["counts"] == {"pairs": 2, "equal_texts": 2, "unscorable": 1}
    rows = [json.loads(line) for line in api.get(f"/v1/files/{done['result_file']}/content").text.splitlines()]
    assert [rows[0][key] for key in ("prompt", "chosen", "rejected")] == ["once upon", "once good good", "once"]
    assert rows[1]["preferred_output"] == [{"role": "assistant", "content": "there good good"}]
    assert (rows[0]["scores"], rows[0]["chosen_score"], rows[0]["rejected_score"]) == ([0, 1, 2], 2, 0)
    assert rows[0]["provenance"]["policy"] == "tiny"
    assert len(rows[0]["provenance"]["reward"]["reward_sha256"]) == 64
    assert records.check(settings.files / done["result_file"], "preference") == 2
    job = create(training_file=done["result_file"])
    assert until(job["id"], "succeeded")["training_file"] == done["result_file"]


def test_the_same_seed_gives_the_same_file(api, annotate, ended):
    prompts = [f"word{k} upon" for k in range(20)]
    how = {"n": 5, "selection": {"rejected": "random"}, "seed": 3}
    files = [ended(annotate(*prompts, **how).json()["id"])["result_file"] for _ in range(2)]
    one, two = (api.get(f"/v1/files/{file}/content").text for file in files)
    assert one == two
    assert len({json.loads(line)["rejected_score"] for line in one.splitlines()}) > 1


def test_ties_and_lengths_are_dropped_and_counted_and_no_pair_at_all_is_a_failure(annotate, ended):
    length = {"type": "length", "scale": 1e9, "cap": 1}
    failed = ended(annotate("a b", "same", reward_model=length).json()["id"])
    assert (failed["status"], failed["counts"]) == ("failed", {"ties": 1, "equal_texts": 1})
    assert failed["error"]["message"] == "no prompt gave a pair: 1 equal_texts, 1 ties"
    short = ended(annotate("a b", selection={"max_length_ratio": 1.01}).json()["id"])
    assert short["counts"] == {"lengths": 1}


def test_what_was_done_before_the_service_stopped_is_not_done_again(settings, base_folder, api, annotate):
    prompts = [f"word{k} upon" for k in range(40)]
    (base_folder / "down").touch()
    made = annotate(*prompts).json()["id"]
    deadline = time.monotonic() + 30
    while not (base_folder / "asked").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    api.app.state.parts.stop.set()
    for thread in api.app.state.parts.threads:
        thread.join()
    path = settings.home / "annotations" / f"{made}.jsonl"
    entries = [
        {"line": k + 1, "outcome": "pairs", "pair": {"prompt": "p", "chosen": "a", "rejected": f"b{k}"}}
        for k in range(30)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"line": 31, "outc')
    (base_folder / "down").unlink()
    (base_folder / "asked").unlink()
    with TestClient(create_app(settings), headers=dict(api.headers)) as again:
        deadline = time.monotonic() + 60
        while (found := again.get(f"/v1/annotations/{made}").json())["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert (found["status"], found["counts"]) == ("succeeded", {"pairs": 40})
        text = again.get(f"/v1/files/{found['result_file']}/content").text
    assert sorted((base_folder / "asked").read_text().splitlines()) == sorted(prompts[30:])
    rejected = [json.loads(line)["rejected"] for line in text.splitlines()]
    assert rejected == [f"b{k}" for k in range(30)] + [f"word{k}" for k in range(30, 40)]
    assert not path.exists()


def test_an_engine_that_fails_is_waited_for_and_the_owner_is_told(base_folder, api, annotate, ended, monkeypatch):
    monkeypatch.setattr("service.annotator.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("service.annotator.TRIES", 1000)
    (base_folder / "down").touch()
    made = annotate("once upon").json()["id"]
    deadline = time.monotonic() + 30
    while not (reason := api.get(f"/v1/annotations/{made}").json()["status_reason"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert reason == "waits for an engine: the policy's engine failed (status 500)"
    (base_folder / "down").unlink()
    done = ended(made)
    assert (done["status"], done["status_reason"]) == ("succeeded", None)


def test_a_cancelled_annotation_ends_and_leaves_no_file(base_folder, api, annotate, settings, parts):
    (base_folder / "down").touch()
    made = annotate("once upon").json()["id"]
    assert api.post(f"/v1/annotations/{made}/cancel").json()["status"] == "cancelled"
    assert api.post(f"/v1/annotations/{made}/cancel").json()["status"] == "cancelled"
    with parts.database.snapshot() as db:
        assert db.get_one(Annotation, made).status is Status.CANCELLED
        assert db.query(File).count() == 1


def test_a_reward_that_fails_for_all_ends_it_with_a_sentence(annotate, ended, api):
    composite = {"type": "composite", "components": [{"name": "n", "reward": {"type": "numeric_answer"}}]}
    failed = ended(annotate("once upon", reward_model=composite).json()["id"])
    assert failed["counts"] == {"unscorable": 1}
    assert failed["status"] == "failed"
    assert failed["error"]["message"].startswith(
        "no prompt gave a pair: 1 unscorable; line 1: component n: input[0] has no"
    )


def test_a_name_means_all_the_way_what_it_meant_at_the_start(api, annotate, ended):
    first = api.post("/v1/reward_models", json={"name": "r", "reward": WORDS}).json()["id"]
    made = annotate("once upon", reward_model="r").json()
    assert made["spec"]["reward_model"] == first
    api.post("/v1/reward_models", json={"name": "r", "reward": {"type": "length"}})
    [row] = api.get(f"/v1/files/{ended(made['id'])['result_file']}/content").text.splitlines()
    assert json.loads(row)["provenance"]["reward"]["reward_model"] == first


REFUSED = [
    ({"model": "gone"}, "model"),
    ({"reward_model": "gone"}, "reward_model"),
    ({"reward_model": {"type": "density_ratio", "strong": "gone", "weak": "tiny"}}, "reward_model.strong"),
    ({"prompts_file": "file-gone"}, "prompts_file"),
    ({"n": 1}, "n"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_cannot_be_annotated_is_refused_by_field(annotate, fields, param):
    answer = annotate("a", **fields)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a"}\n{"prompt": ""}\n', "line 2: prompt must be"),
        (
            b'{"prompt": "a"}\n\n{"prompt": [{"role": "assistant", "content": "a"}]}',
            "line 3: prompt must end before",
        ),
        (b'{"prompt": "\xff"}', "line 1: the text is not UTF-8"),
        (b'{"prompt": "\\ud800"}', "line 1: prompt holds half"),
        (b'{"messages": [{"role": "tool", "content": "4"}]}', "line 1: prompt[0] is about tools"),
        (b"[]", "line 1: not a JSON object"),
        (b"\n", "line 1: the file holds no prompt"),
    ],
)
def test_a_prompts_file_is_read_before_it_is_queued(api, upload, content, words):
    body = {"prompts_file": upload(content)["id"], "model": "tiny", "reward_model": WORDS}
    error = api.post("/v1/annotations", json=body).json()["error"]
    assert words in error["message"]
    assert error["param"] == "prompts_file"


def test_a_strangers_annotation_does_not_exist(stranger, annotate, ended):
    made = annotate("once upon").json()["id"]
    assert stranger.get(f"/v1/annotations/{made}").status_code == 404
    assert stranger.post(f"/v1/annotations/{made}/cancel").status_code == 404
    assert stranger.get("/v1/annotations").json()["data"] == []
    done = ended(made)
    assert stranger.get(f"/v1/files/{done['result_file']}").status_code == 404


def test_two_services_on_one_home_do_not_work_on_one_annotation(tmp_path):
    lock = tmp_path / "a.lock"
    with _alone(lock) as first, _alone(lock) as second, _alone(tmp_path / "b.lock") as other:
        assert (first, second, other) == (True, False, True)
    with _alone(lock) as again:
        assert again


def test_annotations_are_listed_newest_first(api, annotate):
    ids = [annotate("a b").json()["id"] for _ in range(2)]
    listed = api.get("/v1/annotations", params={"limit": 1}).json()
    assert ([row["id"] for row in listed["data"]], listed["has_more"]) == (ids[1:], True)
