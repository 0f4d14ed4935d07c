"""Reward models: named, in versions, each tenant's own."""

import json

import pytest

WORDS = {"type": "lexicon", "weights": {"good": 1}}


@pytest.fixture
def store(api):
    def send(name="helpful", reward=WORDS, client=api):
        return client.post("/v1/reward_models", json={"name": name, "reward": reward})

    return send


def test_a_reward_is_stored_found_by_all_its_names_and_deleted(api, store):
    made = store().json()
    assert (made["object"], made["name"], made["version"]) == ("reward_model", "helpful", 1)
    assert made["reward"] == {"type": "lexicon", "weights": {"good": 1.0}, "per": "answer"}
    for name in (made["id"], "helpful", "helpful@1"):
        assert api.get(f"/v1/reward_models/{name}").json() == made
    assert api.delete("/v1/reward_models/helpful").json() == {
        "id": made["id"],
        "object": "reward_model",
        "deleted": True,
    }
    gone = api.get(f"/v1/reward_models/{made['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "reward_model_not_found")


def test_a_name_means_its_newest_version_and_no_number_is_used_twice(api, store):
    one, two = store().json(), store(reward=WORDS | {"per": "word"}).json()
    assert [one["version"], two["version"]] == [1, 2]
    assert api.get("/v1/reward_models/helpful").json()["id"] == two["id"]
    api.delete(f"/v1/reward_models/{two['id']}")
    assert api.get("/v1/reward_models/helpful").json()["id"] == one["id"]
    assert store().json()["version"] == 3
    for name in ("helpful@2", "helpful@9", "helpful@x", "other"):
        assert api.get(f"/v1/reward_models/{name}").status_code == 404


def test_the_list_comes_in_pages(api, store):
    ids = [store(name=name).json()["id"] for name in ("a", "b", "a")]
    first = api.get("/v1/reward_models", params={"limit": 2}).json()
    assert ([row["id"] for row in first["data"]], first["has_more"]) == (ids[:0:-1], True)
    rest = api.get("/v1/reward_models", params={"after": first["last_id"]}).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (ids[:1], False)
    assert len(api.get("/v1/reward_models", params={"name": "a"}).json()["data"]) == 2


def test_a_strangers_reward_models_do_not_exist(stranger, store):
    made = store().json()
    for name in (made["id"], "helpful", "helpful@1"):
        assert stranger.get(f"/v1/reward_models/{name}").status_code == 404
        assert stranger.delete(f"/v1/reward_models/{name}").status_code == 404
        body = {"model": name, "input": [{"query": "q", "answer": "a"}]}
        assert stranger.post("/v1/rewards", json=body).status_code == 404
    assert stranger.get("/v1/reward_models").json()["data"] == []
    assert store(client=stranger).json()["version"] == 1


def test_without_a_key_nothing_is_shown(api):
    for method, path in (
        ("GET", "/v1/reward_models"),
        ("POST", "/v1/rewards"),
        ("POST", "/score"),
        ("POST", "/get_reward"),
        ("POST", "/v1/annotations"),
    ):
        assert api.request(method, path, headers={"Authorization": ""}).status_code == 401


REFUSED = [
    ({"type": "density_ratio", "strong": "gone", "weak": "tiny"}, 404, "reward.strong"),
    ({"type": "http", "endpoint": "other", "shape": "score"}, 400, "reward.endpoint"),
    ({"type": "implicit", "policy": "ftjob-1"}, 404, "reward.policy"),
    ({"type": "implicit", "policy": "tiny"}, 400, "reward.policy"),
    ({"type": "composite", "components": [{"name": "a", "reward": "gone"}]}, 404, "reward.components[0].reward"),
    ("gone", 404, "reward"),
]


@pytest.mark.parametrize(("reward", "status", "param"), REFUSED)
def test_what_a_reward_names_must_be_there(store, reward, status, param):
    refused = store(reward=reward)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_what_is_no_reward_is_refused_by_field(store):
    for reward in ({"type": "oracle"}, {"type": "lexicon", "weights": {}}, WORDS | {"colour": 1}):
        error = store(reward=reward).json()["error"]
        assert error["param"].startswith("reward")
    assert store(name="no spaces").json()["error"]["param"] == "name"


def test_a_composite_keeps_what_its_names_meant_when_it_was_stored(api, store):
    store(name="words")
    outer = store(name="outer", reward={"type": "composite", "components": [{"name": "w", "reward": "words"}]}).json()
    store(name="words", reward=WORDS | {"per": "word"})
    [component] = api.get(f"/v1/reward_models/{outer['id']}").json()["reward"]["components"]
    assert component["reward"] == WORDS | {"per": "answer", "weights": {"good": 1.0}}


def test_composites_go_only_so_deep(store):
    reward = WORDS
    for _ in range(8):
        reward = {"type": "composite", "components": [{"name": "x", "reward": reward}]}
    assert "deep at most" in store(reward=reward).json()["error"]["message"]


def test_a_finished_job_is_an_implicit_reward_by_its_id(api, store, create, until):
    job = create(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}})
    refused = store(reward={"type": "implicit", "policy": job["id"]})
    if refused.status_code == 400:
        assert "has no policy" in refused.json()["error"]["message"]
    done = until(job["id"], "succeeded")
    reward = store(reward={"type": "implicit", "policy": job["id"]}).json()["reward"]
    assert (reward["policy"], reward["reference"], reward["beta"]) == (done["fine_tuned_model"], "tiny", 0.3)
    same = store(reward={"type": "implicit", "policy": done["fine_tuned_model"], "beta": 1}).json()["reward"]
    assert (same["policy"], same["reference"], same["beta"]) == (done["fine_tuned_model"], "tiny", 1)
    given = {"type": "implicit", "policy": "tiny", "reference": "tiny", "beta": 2}
    assert json.loads(store(reward=given).text)["reward"]["beta"] == 2
