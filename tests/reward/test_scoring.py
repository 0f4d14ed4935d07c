"""Orders from outside: bad input, engines that fail, provenance, the cache, many callers at once."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from reward.client import RewardError
from reward.comparing import compared

RATIO = {"type": "density_ratio", "strong": "strong", "weak": "weak"}
ONE = [{"prompt": [0], "response": [1]}]
HEADERS = {"Authorization": "Bearer secret", "Content-Type": "application/json"}


def test_a_logprob_that_is_no_number_is_an_error_and_never_a_score(given, toy):
    toy.nan = True
    with pytest.raises(
        RewardError, match=r"engine of the (strong|weak) model gave nan as log-prob of token 1 \(1\)"
    ) as caught:
        given(RATIO, ONE)
    assert (caught.value.status, caught.value.code) == (502, "engine_broken")


def test_an_engine_that_is_down_is_unavailable_with_a_time_to_come_back(url, toy):
    order = {
        "request": {"model": RATIO, "input": ONE},
        "endpoints": {name: {"url": "http://127.0.0.1:9", "name": name} for name in ("strong", "weak")},
    }
    answer = httpx.post(f"{url}/v1/rewards", json=order, headers=HEADERS, trust_env=False)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "does not answer" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b'{"request": "\xff\xfe"}', b"\xff", b"{", b'{"request": {"model": "\\ud800", "input": []}}']
)
def test_bytes_that_are_no_text_are_refused(url, body):
    answer = httpx.post(f"{url}/v1/rewards", content=body, headers=HEADERS, trust_env=False)
    assert answer.status_code == 400


SHAPES = [
    ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
    ({"query": "a"}, "answer"),
    ({"prompt": [1]}, "response"),
    ({"prompt": [2**40], "response": [1]}, "prompt"),
    ({"token_ids": [1, 2], "response_mask": [0]}, "1 entries for 2 token ids"),
    ({"token_ids": [1, 2], "response_mask": [1, 1]}, "begins with 1"),
    ({"token_ids": [1, 2], "response_mask": [0, 0]}, "has no 1"),
]


@pytest.mark.parametrize(("given_input", "words"), SHAPES)
def test_an_input_of_a_known_shape_is_refused_by_what_is_wrong_with_that_shape(url, given_input, words):
    order = {"request": {"model": RATIO, "input": [given_input]}}
    error = httpx.post(f"{url}/v1/rewards", json=order, headers=HEADERS, trust_env=False).json()["error"]
    assert words in error["message"]
    assert error["param"].startswith("request.input.0")


def test_one_token_outside_the_vocabulary_does_not_spoil_what_others_ask(given):
    good = [{"prompt": [0], "response": [1, k]} for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        wrong = [pool.submit(given, RATIO, [{"prompt": [0], "response": [99]}]) for _ in range(3)]
        right = [pool.submit(given, RATIO, good) for _ in range(3)]
    for failed in wrong:
        with pytest.raises(RewardError, match="out of vocabulary"):
            failed.result()
    assert len({tuple(row.score for row in found.result().data) for found in right}) == 1


def test_many_callers_at_once_get_what_each_gets_alone_and_nothing_is_asked_twice(given, toy):
    answers = [list(answer) for answer in itertools.product(range(4), repeat=3)]
    alone = [row.score for row in given(RATIO, [{"prompt": [0], "response": answer} for answer in answers]).data]
    toy.asked.clear()
    with ThreadPoolExecutor(16) as pool:
        one_by_one = list(
            pool.map(lambda answer: given(RATIO, [{"prompt": [0], "response": answer}]).data[0].score, answers)
        )
    assert one_by_one == alone
    requests = [body for route, body in toy.asked if route == "/v1/completions"]
    assert sum(len(body["prompt"]) for body in requests) == 2 * len(answers)


def test_the_weak_side_is_asked_once_for_what_it_has_said_before(given, toy):
    vouched = {name: toy.endpoint(name, digest=f"{name}-{toy.url}") for name in ("strong", "weak")}
    first = given(RATIO, ONE, endpoints=vouched)
    again = given(RATIO, [*ONE, {"prompt": [0], "response": [2]}], endpoints=vouched)
    assert again.data[0] == first.data[0]
    assert toy.scored() == [
        ("strong", [0, 1]),
        ("strong", [0, 1]),
        ("strong", [0, 2]),
        ("weak", [0, 1]),
        ("weak", [0, 2]),
    ]
    other = {**vouched, "weak": toy.endpoint("weak", digest="another model's digest")}
    given(RATIO, ONE, endpoints=other)
    assert toy.scored().count(("weak", [0, 1])) == 2


def test_nothing_is_kept_of_a_model_that_nobody_vouches_for(given, toy):
    given(RATIO, ONE)
    given(RATIO, ONE)
    assert toy.scored().count(("weak", [0, 1])) == 2


def test_scores_say_what_made_them(given, toy):
    found = given(RATIO, ONE, endpoints={"strong": toy.endpoint("strong", dtype="bfloat16")}).provenance
    strong, weak = found.models["strong"], found.models["weak"]
    assert (strong.id, strong.digest, strong.dtype, strong.engine) == ("strong", "strong", "bfloat16", "vllm 0.0.toy")
    assert (weak.id, weak.digest, weak.engine) == ("weak", None, "vllm 0.0.toy")
    same = given(RATIO | {"aggregation": "sum"}, ONE).provenance.reward_sha256
    other = given(RATIO | {"aggregation": "mean"}, ONE).provenance.reward_sha256
    assert found.reward_sha256 == same != other


def test_an_exchange_is_two_turns_where_there_is_a_template_and_one_text_where_there_is_none(given, toy):
    bare = {name: toy.endpoint(name, chat_template_sha256=None) for name in ("strong", "weak")}
    given(RATIO, [{"query": "ab", "answer": "c"}])
    assert {tuple(ids) for _, ids in toy.scored()} == {(0, 1, 2, 0, 3)}
    toy.asked.clear()
    given(RATIO, [{"query": "ab", "answer": "c"}], endpoints=bare)
    assert {tuple(ids) for _, ids in toy.scored()} == {(0, 1, 2, 3)}


def test_a_comparison_is_the_logistic_function_of_the_difference(given):
    inputs = [{"prompt": [0], "response": [token]} for token in (1, 2, 3, 0)]
    one, two = compared(given(RATIO, inputs)).data
    assert one.margin == pytest.approx(math.log(0.6 / 0.3) - math.log(0.2 / 0.2))
    assert one.probability == pytest.approx(2 / 3)
    assert two.probability == pytest.approx(1 / (1 + math.exp(-(math.log(0.1 / 0.2) - math.log(0.1 / 0.3)))))
    assert (one.first_score - one.second_score, two.index) == (one.margin, 1)
