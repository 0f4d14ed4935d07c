"""The log-ratio against exact enumeration over a language small enough to list."""

import itertools
import math

import pytest

from reward.client import RewardError

ANSWERS = [list(answer) for answer in itertools.product(range(4), repeat=3)]
PROMPT = [0, 2]


@pytest.fixture
def probability(tables):
    def worked_out(model, answer):
        steps = itertools.pairwise([PROMPT[-1], *answer])
        return math.prod(tables[model][before][token] for before, token in steps)

    return worked_out


@pytest.fixture
def ratios(score):
    """R(y) for every answer of three letters, by its place."""
    inputs = [{"prompt": PROMPT, "response": answer} for answer in ANSWERS]
    return [row.score for row in score(inputs).data]


def test_every_score_is_the_log_of_the_ratio_of_probabilities(ratios, probability):
    for answer, ratio in zip(ANSWERS, ratios, strict=True):
        assert ratio == pytest.approx(math.log(probability("strong", answer) / probability("weak", answer)), abs=1e-12)


def test_the_weak_models_mean_of_exp_r_is_one(ratios, probability):
    pairs = zip(ANSWERS, ratios, strict=True)
    assert sum(probability("weak", answer) * math.exp(ratio) for answer, ratio in pairs) == pytest.approx(1, abs=1e-12)


def test_the_mean_of_r_is_the_divergence_of_the_model_that_speaks(ratios, probability, tables):
    strong = sum(probability("strong", answer) * ratio for answer, ratio in zip(ANSWERS, ratios, strict=True))
    weak = sum(probability("weak", answer) * ratio for answer, ratio in zip(ANSWERS, ratios, strict=True))
    assert strong == pytest.approx(kl(tables["strong"], tables["weak"]), abs=1e-12)
    assert weak == pytest.approx(-kl(tables["weak"], tables["strong"]), abs=1e-12)
    assert strong > 0 > weak


def kl(speaker, other, steps=3):
    """By the chain rule, letter by letter."""
    state = [1.0 if letter == PROMPT[-1] else 0.0 for letter in range(4)]
    total = 0.0
    for _ in range(steps):
        for before, mass in enumerate(state):
            p, q = speaker[before], other[before]
            total += mass * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        state = [sum(state[before] * speaker[before][token] for before in range(4)) for token in range(4)]
    return total


def test_it_adds_over_any_split_of_the_answer(score):
    answer = [1, 3, 0, 2]
    [whole] = score([{"prompt": PROMPT, "response": answer}]).data
    for cut in (1, 2, 3):
        parts = [
            {"prompt": PROMPT, "response": answer[:cut]},
            {"prompt": PROMPT + answer[:cut], "response": answer[cut:]},
        ]
        assert sum(part.score for part in score(parts).data) == pytest.approx(whole.score, abs=1e-12)


def test_the_mean_is_the_sum_by_the_number_of_tokens(score):
    inputs = [{"prompt": PROMPT, "response": [1, 3, 0]}]
    [total], [mean] = score(inputs).data, score(inputs, aggregation="mean").data
    assert mean.score == pytest.approx(total.score / 3, abs=1e-15)
    assert total.tokens is total.token_scores is total.strong_logprobs is None


def test_the_parts_asked_for_come_token_by_token(score):
    [row] = score([{"prompt": [0], "response": [1]}], include=["token_scores", "logprobs"]).data
    assert row.tokens == ["a"]
    assert row.strong_logprobs == pytest.approx([math.log(0.6)])
    assert row.weak_logprobs == pytest.approx([math.log(0.3)])
    assert row.token_scores == pytest.approx([math.log(2)])
    assert row.score == pytest.approx(math.log(2))


def test_text_and_conversations_are_scored_as_their_tokens(score):
    inputs = [
        {"prompt": "ab", "response": "ca"},
        {"prompt": [0, 1, 2], "response": [3, 1]},
        {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]},
        {"prompt": [0, 1, 2, 0], "response": [3]},
    ]
    listed = score(inputs)
    assert listed.data[0].score == listed.data[1].score
    assert listed.data[2].score == listed.data[3].score
    assert [row.num_scored_tokens for row in listed.data] == [2, 2, 1, 1]
    assert listed.usage.model_dump() == {"prompt_tokens": 3 + 3 + 4 + 4, "total_tokens": 5 + 5 + 5 + 5}


def test_every_model_reads_each_input_once(score, toy):
    score([{"prompt": [0], "response": [1, 2]}, {"prompt": [0], "response": [3]}])
    assert toy.scored() == [(model, ids) for model in ("strong", "weak") for ids in ([0, 1, 2], [0, 3])]


REFUSED = [
    ({"prompt": [], "response": [1]}, "input[1]", "empty prompt"),
    ({"prompt": "a", "response": [1]}, "input[1]", "both be text or both be token ids"),
    ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}, "input[1].messages", "assistant"),
    ({"prompt": [0] * 7, "response": [1] * 5}, "input[1]", "12 tokens (7 prompt, 5 answer); the strong model takes 11"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "param", "said"), REFUSED)
def test_an_input_that_cannot_be_scored_is_named_before_anything_is_scored(score, toy, given, param, said):
    with pytest.raises(RewardError) as caught:
        score([{"prompt": [0], "response": [1]}, given])
    assert said in caught.value.message
    assert (caught.value.status, caught.value.param) == (400, param)
    assert "/v1/completions" not in [route for route, _ in toy.asked]


def test_models_that_spell_a_token_differently_are_refused(score):
    score([{"prompt": [0], "response": [1, 0]}], weak="stranger")
    with pytest.raises(RewardError, match=r"different tokenizers: token 2 of input\[0\] is 'b' to the strong and 'c'"):
        score([{"prompt": [0], "response": [1, 2]}], weak="stranger")


def test_a_model_without_an_endpoint_is_named(score):
    with pytest.raises(RewardError) as caught:
        score([{"prompt": [0], "response": [1]}], weak="gone")
    assert caught.value.param == "model.weak"


def test_an_engine_that_fails_makes_scoring_unavailable(score, toy):
    toy.broken = True
    with pytest.raises(RewardError, match="engine of the strong model failed") as caught:
        score([{"prompt": [0], "response": [1]}])
    assert (caught.value.status, caught.value.code) == (503, "engine_unavailable")
