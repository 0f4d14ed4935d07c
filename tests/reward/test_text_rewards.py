"""Rewards that read text: word lists, verifiers, length, repetition, relevance, somebody else's server, composites."""

import itertools
import math
from statistics import mean, pstdev

import pytest
from pydantic import ValidationError

from reward.client import RewardError


def said(*answers, query="Why?", **more):
    return [{"query": query, "answer": answer} | more for answer in answers]


def scores(given, reward, inputs, **options):
    return [row.score for row in given(reward, inputs, **options).data]


def test_a_lexicon_adds_the_weights_of_its_words_the_longest_phrase_first(given):
    lexicon = {"type": "lexicon", "weights": {"good": 3, "not good": -2, "can't stand": -3, "bad": -3}}
    inputs = said("Good, GOOD!", "It is not good.", "I can’t stand bad tea", "Goodness")
    assert scores(given, lexicon, inputs) == [6, -2, -6, 0]
    assert scores(given, lexicon | {"per": "word"}, inputs) == [3, -0.5, -6 / 5, 0]


def test_real_afinn_sums_are_those_of_its_own_lines(given, realdata):
    lines = (realdata / "afinn" / "AFINN-111.txt").read_text().splitlines()
    weights = {word: float(weight) for word, weight in (line.split("\t") for line in lines)}
    assert len(weights) == 2477
    inputs = said("a breathtaking catastrophe", "he does not like the cool stuff")
    assert scores(given, {"type": "lexicon", "weights": weights}, inputs) == [5 - 3, 2 + 3]


REFERENCES = [
    ("It is 42.", "42", 1.0),
    ("First 7, so #### 1,234", "#### 1234", 1.0),
    ("#### 5 apples of 9", "5", 1.0),
    ("$18.00", "18", 1.0),
    ("-3", "3", 0.0),
    ("no idea", "3", -0.5),
    ("3, so #### nothing", "3", -0.5),
]


@pytest.mark.parametrize(("answer", "reference", "worth"), REFERENCES)
def test_a_number_is_right_wrong_or_missing(given, answer, reference, worth):
    verifier = {"type": "numeric_answer", "missing": -0.5}
    assert scores(given, verifier, said(answer, reference=reference)) == [worth]


def test_real_arithmetic_answers_verify_against_themselves_and_not_against_the_next(given, realdata):
    import json

    lines = (realdata / "gsm8k" / "train.jsonl").read_text().splitlines()[:250]
    answers = [json.loads(line)["answer"] for line in lines]
    right = [{"query": "?", "answer": a, "reference": a} for a in answers]
    assert scores(given, {"type": "numeric_answer"}, right) == [1.0] * 250
    shifted = [{"query": "?", "answer": a, "reference": b} for a, b in itertools.pairwise(answers)]
    same = [a.split("####")[1].strip() == b.split("####")[1].strip() for a, b in itertools.pairwise(answers)]
    assert scores(given, {"type": "numeric_answer"}, shifted) == [float(equal) for equal in same]


def test_a_verifier_without_a_reference_names_the_input(given):
    for reference, words in ((None, "no reference"), ("none", "reference without a number")):
        with pytest.raises(RewardError, match=words) as caught:
            given({"type": "numeric_answer"}, said("1", reference="1") + said("1", reference=reference))
        assert caught.value.param == "input[1].reference"


def test_a_pattern_matches_a_part_or_the_whole(given):
    pattern = {"type": "regex", "pattern": r"<think>.*</think>", "match": 2, "miss": -1}
    inputs = said("<think>x</think>", "<think>x</think> so", "so", "<THINK>x</THINK>")
    assert scores(given, pattern, inputs) == [2, 2, -1, -1]
    assert scores(given, pattern | {"whole": True, "ignore_case": True}, inputs) == [2, -1, -1, 2]


def test_a_pattern_that_never_ends_is_stopped_and_one_that_is_none_is_refused(given, monkeypatch):
    monkeypatch.setattr("reward.matching.SECONDS", 0.5)
    with pytest.raises(RewardError, match="did not come to an end") as caught:
        given({"type": "regex", "pattern": "(a+)+$"}, said("a" * 60 + "!"))
    assert (caught.value.status, caught.value.param) == (400, "model.pattern")
    with pytest.raises(ValidationError, match="not a regular expression"):
        given({"type": "regex", "pattern": "("}, said("a"))


def test_length_grows_to_its_cap_and_then_costs(given):
    length = {"type": "length", "scale": 10, "cap": 3, "over": 0.5}
    assert scores(given, length, said("one two", "one two.", "one two three four five")) == pytest.approx(
        [0.2, 0.3, 0.2]
    )
    assert scores(given, {"type": "length", "unit": "characters", "scale": 1}, said("né!")) == [3]


def test_repetition_is_the_share_of_distinct_trigrams(given):
    inputs = said("a b c a b c a b c d", "a b", "a b c d")
    assert scores(given, {"type": "repetition"}, inputs) == [0.5, 1, 1]
    assert scores(given, {"type": "repetition", "n": 1}, inputs[:1]) == [0.4]


def relevance(**more):
    return {"type": "regularized_relevance"} | more


def test_regularised_relevance_is_the_published_formula(given, toy):
    """n = 10, LI = .1, RP = .5, REL = 1.4: open .07; closed 1.4 / 3.5 · 5.12 · .5 = 1.024 (2402.03469)."""
    text = "a b c a b c a b c d"
    toy.vectors = {"Why?": [2.0, 1.0], "truth": [1.0, 2.0], text: [0.4, 0.6], "other": [0.5, 0.45]}
    toy.vectors["truth"] = [0.5, 2.0]
    services = {"encoder": f"{toy.url}/v1/embeddings"}
    model = relevance(embeddings="encoder")
    assert scores(given, model, said(text), services=services) == pytest.approx([0.07])
    assert scores(given, model, said(text, reference="truth"), services=services) == pytest.approx([1.024])
    open_parts = {"relevance": 0.05, "length": 0.7, "repetition": 0.14}
    for switch, left in open_parts.items():
        assert scores(given, model | {switch: False}, said(text), services=services) == pytest.approx([left])
    unbranched = scores(given, model | {"branching": False}, said(text, reference="truth"), services=services)
    assert unbranched == pytest.approx([0.07])


def test_relevance_without_an_encoder_is_the_cosine_of_words_and_length_has_a_cap(given):
    inputs = said("red tea", "blue sea", query="red tea?")
    assert scores(given, relevance(), inputs) == pytest.approx([3.5 * 0.02, 0])
    long = said(" ".join(f"w{k}" for k in range(700)))
    assert scores(given, relevance(relevance=False, max_length=512), long) == pytest.approx([5.12])


def test_an_answer_that_goes_on_to_speak_for_others_is_cut(given):
    plain = scores(given, relevance(relevance=False), said("fine words here"))
    for more in ("\nUser: and now?", "\n\n\n\nmore", "\n-----\nmore"):
        assert scores(given, relevance(relevance=False), said(f"fine words here{more}")) == plain


def test_an_endpoint_of_others_is_asked_in_its_shape(given, toy):
    toy.others = {
        "/get_reward": {"rewards": [0.5, -1], "scores": [9, 9]},
        "/score": {"data": [{"index": 1, "score": -1.0}, {"index": 0, "score": 0.5}]},
    }
    inputs = [{"query": "q", "answer": "a", "reference": "r"}, {"prompt": "x ", "response": "y"}]
    services = {"rlhf": f"{toy.url}/get_reward", "vllm": f"{toy.url}/score"}
    openrlhf = {"type": "http", "endpoint": "rlhf", "shape": "openrlhf"}
    assert scores(given, openrlhf, inputs, services=services) == [0.5, -1]
    assert toy.asked[-1][1] == {"query": ["qa", "x y"], "prompts": ["q", "x "], "labels": ["r", ""]}
    score = {"type": "http", "endpoint": "vllm", "shape": "score", "model": "m"}
    assert scores(given, score, inputs, services=services) == [0.5, -1]
    assert toy.asked[-1][1] == {"model": "m", "text_1": ["q", "x "], "text_2": ["a", "y"]}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"rewards": [1]}, "one score for each of 2"),
        ({"scores": [1, 2]}, "another shape"),
        ({"rewards": [1, None]}, "None as a score"),
        ({"rewards": [1, math.nan]}, "nan as a score"),
    ],
)
def test_an_endpoint_that_gives_no_scores_is_not_believed(given, toy, answer, words):
    toy.others = {"/get_reward": answer}
    model = {"type": "http", "endpoint": "rlhf", "shape": "openrlhf"}
    with pytest.raises(RewardError, match=words) as caught:
        given(model, said("a", "b"), services={"rlhf": f"{toy.url}/get_reward"})
    assert (caught.value.status, caught.value.code) == (502, "engine_broken")


def test_an_endpoint_that_is_down_and_one_that_nobody_named(given):
    model = {"type": "http", "endpoint": "rlhf", "shape": "openrlhf"}
    with pytest.raises(RewardError, match="rlhf does not answer") as caught:
        given(model, said("a"), services={"rlhf": "http://127.0.0.1:9"})
    assert caught.value.status == 503
    with pytest.raises(RewardError, match="no reward endpoint 'rlhf'") as caught:
        given(model, said("a"))
    assert (caught.value.status, caught.value.param) == (400, "model.endpoint")


WORDS = {"type": "lexicon", "weights": {"good": 1, "bad": -1}}
LONG = {"type": "length", "scale": 1}


def component(name, reward, **more):
    return {"name": name, "reward": reward} | more


def test_a_composite_is_the_weighted_sum_of_its_clipped_parts(given):
    composite = {
        "type": "composite",
        "components": [component("words", WORDS, weight=2), component("length", LONG, weight=-0.5, clip=[0, 3])],
    }
    found = given(composite, said("good good", "bad a b c d")).data
    assert [row.parts for row in found] == [{"words": 4, "length": -1}, {"words": -2, "length": -1.5}]
    assert [row.score for row in found] == [3, -3.5]


def test_parts_are_standardised_over_the_request_each_group_or_by_known_moments(given):
    inputs = said("a", "a b c", "a b", "a b c d e f")
    counts = [1, 3, 2, 6]

    def worth(how, **options):
        return scores(
            given, {"type": "composite", "components": [component("n", LONG, standardize=how)]}, inputs, **options
        )

    assert worth("batch") == pytest.approx([(n - mean(counts)) / pstdev(counts) for n in counts])
    assert worth("group", group_ids=[7, 7, 2, 2]) == pytest.approx([-1, 1, -1, 1])
    assert worth({"mean": 2, "std": 4}) == pytest.approx([(n - 2) / 4 for n in counts])
    assert worth("group", group_ids=[1, 2, 3, 4]) == [0, 0, 0, 0]


def test_a_routed_composite_asks_each_expert_only_its_own_inputs(given):
    composite = {
        "type": "composite",
        "router": {"type": "keywords", "rules": {"maths": ["sum"]}},
        "components": [
            component("right", {"type": "numeric_answer"}, domains=["maths"]),
            component("words", WORDS, domains=["chat"]),
            component("length", LONG, weight=0.1),
        ],
    }
    inputs = said("good") + said("good 4", query="the sum?", reference="4")
    found = given(composite, inputs)
    assert [(row.domain, row.parts) for row in found.data] == [
        ("chat", {"words": 1, "length": 0.1}),
        ("maths", {"right": 1, "length": 0.2}),
    ]
    with pytest.raises(RewardError, match=r"component right: input\[1\] has no reference") as caught:
        given(composite, said("good") + said("good 4", query="the sum?"))
    assert caught.value.param == "input[1].reference"


def test_a_composite_of_composites_and_ratios_names_all_their_models(given):
    from reward.spec import Composite

    ratio = {"type": "density_ratio", "strong": "strong", "weak": "weak"}
    inner = {"type": "composite", "components": [component("ratio", ratio)]}
    outer = {"type": "composite", "components": [component("inner", inner, weight=2), component("words", WORDS)]}
    field = "components[0].reward.components[0].reward"
    assert Composite.model_validate(outer).models() == {f"{field}.strong": "strong", f"{field}.weak": "weak"}
    turns = [{"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "a"}]}]
    [row] = given(outer, turns).data
    assert row.parts == {"inner": pytest.approx(2 * math.log(2)), "words": 0}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([component("a", WORDS), component("a", LONG)], "two components have one name"),
        ([component("a", WORDS, domains=["law"])], "default domain chat"),
        ([component("a", WORDS, clip=[1, 0])], "least value and then a greater"),
    ],
)
def test_a_composite_that_contradicts_itself_is_refused(given, parts, words):
    with pytest.raises(ValidationError, match=words):
        given({"type": "composite", "components": parts}, said("a"))


def test_a_stored_rewards_name_means_nothing_to_the_scoring_process(given):
    for model in ("helpful", {"type": "composite", "components": [component("a", "helpful")]}):
        with pytest.raises(RewardError, match="helpful is a stored reward's name"):
            given(model, said("a"))


def test_scores_are_normalised_in_their_groups_and_the_raw_ones_stay(given):
    inputs, groups = said("a", "a b", "a b", "a", "a b c"), [1, 1, 1, 2, 2]
    ranked = given(LONG, inputs, normalization="rank_in_group", group_ids=groups).data
    assert [row.score for row in ranked] == [0, 0.75, 0.75, 0, 1]
    assert [row.raw_score for row in ranked] == [1, 2, 2, 1, 3]
    assert scores(given, LONG, inputs, normalization="zscore", group_ids=groups)[3:] == [-1, 1]
    assert scores(given, LONG, said("a"), normalization="sigmoid") == [1 / (1 + math.exp(-1))]
    assert scores(given, LONG | {"scale": 1e-3}, said("a b"), normalization="sigmoid") == [1.0]
    with pytest.raises(ValidationError, match="4 entries for 5 inputs"):
        given(LONG, inputs, group_ids=groups[:4])


def test_token_ids_aggregations_and_empty_answers_are_refused_where_text_is_read(given):
    with pytest.raises(RewardError, match=r"input\[0\] is token ids; lexicon reads text"):
        given(WORDS, [{"prompt": [1], "response": [2]}])
    with pytest.raises(RewardError, match="lexicon has no scores by token") as caught:
        given(WORDS, said("a"), aggregation="mean")
    assert caught.value.param == "aggregation"
    with pytest.raises(RewardError, match=r"input\[0\] has an empty answer"):
        given(WORDS, [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}])
