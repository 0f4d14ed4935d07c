"""Scores through the service: the scoring process is real, the rewards need no engine."""

import httpx
import pytest
from openai import OpenAI

WORDS = {"type": "lexicon", "weights": {"good": 1, "bad": -1}}


def said(*answers, query="q"):
    return [{"query": query, "answer": answer} for answer in answers]


@pytest.fixture
def words(api):
    return api.post("/v1/reward_models", json={"name": "words", "reward": WORDS}).json()["id"]


def test_a_stored_reward_scores_by_name_and_says_which_it_was(api, words):
    answer = api.post("/v1/rewards", json={"model": "words", "input": said("good good", "bad")}).json()
    assert [row["score"] for row in answer["data"]] == [2, -1]
    assert answer["model"] == "words"
    assert answer["provenance"]["reward_model"] == words
    given = api.post("/v1/rewards", json={"model": WORDS, "input": said("good")}).json()
    assert "reward_model" not in given["provenance"]
    assert given["provenance"]["reward_sha256"] == answer["provenance"]["reward_sha256"]


def test_two_answers_are_compared(api, words):
    pairs = [{"first": one, "second": two} for one, two in zip(said("good", "bad"), said("bad", "bad"), strict=True)]
    answer = api.post("/v1/rewards/compare", json={"model": "words", "pairs": pairs}).json()
    assert [row["margin"] for row in answer["data"]] == [2, 0]
    assert answer["data"][0]["probability"] == pytest.approx(0.880797, abs=1e-6)
    assert answer["data"][1]["probability"] == 0.5


def test_every_shape_of_others_gives_the_same_scores(api, words):
    score = {"model": "words", "text_1": "q", "text_2": ["good", "bad bad"]}
    for path in ("/score", "/v1/score"):
        assert [row["score"] for row in api.post(path, json=score).json()["data"]] == [1, -2]
    rerank = {"model": "words", "query": "q", "documents": ["bad", "good"]}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        assert [row["index"] for row in api.post(path, json=rerank).json()["results"]] == [1, 0]
    for path in ("/classify", "/v1/classify"):
        assert api.post(path, json={"model": "words", "input": "so good"}).json()["data"][0]["probs"] == [1]
    asked = {"query": ["good? bad"], "prompts": ["good? "], "labels": [""]}
    assert api.post("/get_reward", params={"model": "words"}, json=asked).json()["rewards"] == [-1]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/score", {"model": "words", "text_1": ["a", "b"], "text_2": ["a"]}, "queries"),
        ("/score", {"model": "words", "text_2": ["a"]}, "queries"),
        ("/get_reward?model=words", {"query": "a"}, "query"),
        ("/get_reward", {"query": ["a"]}, "model"),
        ("/rerank", {"model": "gone", "query": "q", "documents": ["a"]}, "model"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_by_field(api, words, path, body, param):
    answer = api.post(path, json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param


def test_the_official_client_runs_a_score_model_grader(api, words):
    client = OpenAI(base_url="http://testserver/v1", api_key=api.headers["authorization"].split()[1], http_client=api)
    user = {"role": "user", "content": "Was it {{item.what}}?"}
    grader = {"type": "score_model", "name": "g", "model": "words", "input": [user]}
    run = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="good good", item={"what": "bad"})
    assert (run.reward, run.metadata.scores, run.metadata.errors.other_error) == (2, {"g": 2}, False)


def test_a_client_that_can_set_no_header_sends_its_key_in_the_url(api, words):
    key = api.headers["authorization"].split()[1]
    body = {"query": ["good"]}
    for auth, status in ((("any", key), 200), (("any", "sk-wrong"), 401)):
        headers = {"Authorization": httpx.BasicAuth(*auth)._auth_header}
        assert api.post("/get_reward?model=words", json=body, headers=headers).status_code == status
    assert api.post("/get_reward?model=words", json=body, headers={"Authorization": "Basic %%"}).status_code == 401


def test_an_engine_that_cannot_be_had_is_503_with_a_time_to_come_back(api):
    model = {"type": "density_ratio", "strong": "tiny", "weak": "tiny"}
    answer = api.post("/v1/rewards", json={"model": model, "input": said("good")})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_a_spec_cannot_name_an_address_and_an_unnamed_endpoint_is_refused(api):
    model = {"type": "http", "endpoint": "http://127.0.0.1:1/", "shape": "score"}
    error = api.post("/v1/rewards", json={"model": model, "input": said("good")}).json()["error"]
    assert error["param"] == "model.endpoint"
    assert "the operator has named none" in error["message"]


def lines(*rows):
    import json

    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_reward_is_evaluated_on_a_file_by_subset(api, words, upload):
    file = upload(
        lines(
            {"prompt": "q", "chosen": "good", "rejected": "bad", "subset": "chat"},
            {"prompt": "q", "chosen": "bad", "rejected": "good", "subset": "code"},
            {"prompt": "q", "chosen": "x", "rejected": "y", "subset": "code"},
            {"prompt": "q", "chosen": "good", "rejected": "x", "subset": "code", "preference": 0.75},
        )
    )["id"]
    found = api.post("/v1/rewards/evaluate", json={"model": "words", "file": file}).json()
    assert found["overall"]["accuracy"] == pytest.approx((1 + 0 + 0.5 + 0.75) / 4)
    assert found["subsets"]["chat"]["accuracy"] == 1
    assert found["subsets"]["code"]["accuracy"] == pytest.approx(1.25 / 3)
    assert found["mean_of_subsets"] == pytest.approx((1 + 1.25 / 3) / 2)
    assert found["subsets"]["code"]["low"] < 1.25 / 3 < found["subsets"]["code"]["high"]


def said_by(text):
    return [{"role": "assistant", "content": text}]


def test_an_evaluation_names_the_line_that_is_wrong(api, words, upload):
    pair = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    bad = [
        (lines(pair, pair | {"preference": 2}), "line 2: preference must be"),
        (lines(pair) + "{", "line 2: not valid JSON"),
        (lines(pair | {"chosen": ""}), "line 1: chosen is empty"),
        (
            lines({"prompt": [{"role": "tool", "content": "4"}], "chosen": said_by("a"), "rejected": said_by("b")}),
            "about tools",
        ),
        ("\n" + lines(pair, {"prompt": [1], "chosen": [2], "rejected": [3]}), r"line 3: input[2] is token ids"),
    ]
    for content, words_said in bad:
        error = api.post("/v1/rewards/evaluate", json={"model": "words", "file": upload(content)["id"]}).json()["error"]
        assert words_said in error["message"]
        assert error["param"] == "file"


def test_pairs_that_cannot_be_scored_are_left_out_and_counted_where_that_is_asked_for(api, words, upload):
    pair = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    ids = {"prompt": [1], "chosen": [2], "rejected": [3]}
    mixed, hopeless = (upload(lines(*rows))["id"] for rows in ((pair, ids, pair, ids), (ids, ids)))
    found = api.post("/v1/rewards/evaluate", json={"model": "words", "file": mixed, "skip": True}).json()
    assert (found["overall"]["pairs"], found["overall"]["accuracy"], found["skipped"]) == (2, 1, 2)
    error = api.post("/v1/rewards/evaluate", json={"model": "words", "file": hopeless, "skip": True}).json()["error"]
    assert error["message"] == "none of the 2 pairs could be scored"
