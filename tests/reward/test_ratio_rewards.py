"""Implicit, out-of-distribution and customised density ratios against closed forms and enumeration."""

import itertools
import math

import pytest

from reward.client import RewardError
from reward.domains import Domain, Exemplar, customised, escaped
from reward.evaluating import Judged, accuracy
from reward.inputs import Conversation, Message

RATIO = {"type": "density_ratio", "strong": "strong", "weak": "weak"}
IMPLICIT = {"type": "implicit", "policy": "strong", "reference": "weak", "beta": 0.7}
PROMPT = [0, 2]


def log_ratio(tables, before, token):
    return math.log(tables["strong"][before][token] / tables["weak"][before][token])


def test_the_implicit_reward_at_every_token_is_the_soft_value_of_all_that_can_follow(given, tables):
    """q_t = β log E_ref[exp(r(y) / β) | y_≤t], exactly (2412.01981)."""
    beta, length = IMPLICIT["beta"], 3
    answers = list(itertools.product(range(4), repeat=length))
    inputs = [{"prompt": PROMPT, "response": list(answer)} for answer in answers]
    found = given(IMPLICIT, inputs, include=["cumulative_scores"]).data
    reward = {answer: row.score for answer, row in zip(answers, found, strict=True)}
    for answer, row in zip(answers, found, strict=True):
        for t in range(1, length + 1):
            mean = 0.0
            for rest in itertools.product(range(4), repeat=length - t):
                whole = (*answer[:t], *rest)
                steps = list(itertools.pairwise([PROMPT[-1], *whole]))[t:]
                mean += math.prod(tables["weak"][a][b] for a, b in steps) * math.exp(reward[whole] / beta)
            assert row.cumulative_scores[t - 1] == pytest.approx(beta * math.log(mean), abs=1e-12)


def test_steps_add_up_to_the_outcome_and_the_least_can_be_the_score(given, tables):
    model = IMPLICIT | {"step_delimiter": "."}
    [row] = given(model, [{"prompt": [0], "response": [1, 0, 3, 0, 2]}], include=["step_scores"]).data
    ratios = [0.7 * log_ratio(tables, a, b) for a, b in ((0, 1), (1, 0), (0, 3), (3, 0), (0, 2))]
    assert row.step_scores == pytest.approx([sum(ratios[:2]), sum(ratios[2:4]), ratios[4]], abs=1e-12)
    assert math.fsum(row.step_scores) == pytest.approx(row.score, abs=1e-12)
    [least] = given(model, [{"prompt": [0], "response": [1, 0, 3, 0, 2]}], aggregation="min_step").data
    assert least.score == min(row.step_scores)
    with pytest.raises(RewardError, match="step_delimiter"):
        given(IMPLICIT, [{"prompt": [0], "response": [1]}], aggregation="min_step")


def test_an_implicit_reward_that_nobody_resolved_is_refused(given):
    with pytest.raises(RewardError, match="known only to the service"):
        given({"type": "implicit", "policy": "strong"}, [{"prompt": [0], "response": [1]}])


def test_what_the_tuned_model_has_not_seen_scores_higher(given, monkeypatch, tables):
    """Unigrams: tuned (.9, .1), pretrained (.5, .5): "0000" scores 4 ln(.5/.9), "1111" 4 ln(.5/.1); AUROC 1."""
    third = (0.45, 0.05, 0.45, 0.05), (0.25, 0.25, 0.25, 0.25)
    monkeypatch.setitem(tables, "strong", (third[0],) * 4)
    monkeypatch.setitem(tables, "weak", (third[1],) * 4)
    model = {"type": "ood_ratio", "pretrained": "weak", "finetuned": "strong", "aggregation": "sum"}
    inputs = [{"prompt": [3], "response": [0, 2, 0, 2]}, {"prompt": [3], "response": [1, 3, 1, 1]}]
    inside, outside = (row.score for row in given(model, inputs).data)
    assert inside == pytest.approx(-2.351147, abs=1e-6)
    assert outside == pytest.approx(6.437752, abs=1e-6)
    means = [row.score for row in given(model, inputs, aggregation="mean").data]
    assert means == pytest.approx([inside / 4, outside / 4])
    assert accuracy([Judged(outside, inside)]).accuracy == 1


def test_prompt_answer_and_both_are_parts_of_one_ood_sum(given):
    found = {}
    for part in ("prompt", "answer", "both"):
        model = {"type": "ood_ratio", "pretrained": "weak", "finetuned": "strong", "part": part, "aggregation": "sum"}
        [found[part]] = given(model, [{"prompt": [0, 2, 1], "response": [3, 1]}]).data
    assert found["both"].score == pytest.approx(found["prompt"].score + found["answer"].score, abs=1e-12)
    assert [found[part].num_scored_tokens for part in ("prompt", "answer", "both")] == [2, 2, 4]
    with pytest.raises(RewardError, match="prompt of one token") as caught:
        given(model | {"part": "prompt"}, [{"prompt": [0], "response": [3, 1]}])
    assert caught.value.param == "input[0]"


def test_a_masked_rollout_counts_only_its_marked_tokens(given, tables):
    row = {"token_ids": [0, 2, 1, 3, 0], "response_mask": [0, 0, 1, 0, 1]}
    [scored] = given(RATIO, [row], include=["token_scores"]).data
    expected = [log_ratio(tables, 2, 1), log_ratio(tables, 3, 0)]
    assert scored.token_scores == pytest.approx(expected)
    assert scored.tokens == ["a", "."]


def test_each_token_is_clipped_before_the_sum(given, tables):
    ratios = [log_ratio(tables, a, b) for a, b in ((0, 1), (1, 3), (3, 0))]
    assert max(map(abs, ratios)) > 0.5
    [row] = given(
        RATIO | {"aggregation": "per_token_clipped", "clip": 0.5}, [{"prompt": [0], "response": [1, 3, 0]}]
    ).data
    assert row.score == pytest.approx(sum(max(-0.5, min(0.5, ratio)) for ratio in ratios))


def test_swapping_the_models_turns_the_sign_and_one_model_over_itself_is_worth_nothing(given):
    inputs = [{"prompt": PROMPT, "response": [1, 3, 0]}]
    there, back = (
        given({"type": "density_ratio", "strong": a, "weak": b}, inputs)
        for a, b in (("strong", "weak"), ("weak", "strong"))
    )
    assert there.data[0].score == -back.data[0].score
    alone = given({"type": "density_ratio", "strong": "weak", "weak": "weak"}, inputs)
    assert alone.data[0].score == 0
    assert alone.warnings == ["strong and weak are one model, weak: every score is 0"]


def test_a_score_does_not_depend_on_what_else_is_scored_or_in_which_order(given):
    inputs = [{"prompt": PROMPT, "response": list(answer)} for answer in itertools.product(range(4), repeat=2)]
    listed = [row.score for row in given(RATIO, inputs).data]
    turned = [row.score for row in given(RATIO, inputs[::-1]).data]
    assert listed == turned[::-1]
    assert listed[5] == given(RATIO, inputs[5:6]).data[0].score


def test_models_with_other_tokens_are_compared_by_text_where_that_is_asked_for(given, tables):
    by_text = RATIO | {"weak": "stranger", "alignment": "sequence"}
    inputs = [{"prompt": [0], "response": [1, 2]}, {"prompt": ".", "response": "ab"}]
    for row in given(by_text, inputs, include=["token_scores"]).data:
        assert row.score == pytest.approx(log_ratio(tables, 0, 1) + log_ratio(tables, 1, 2))
        assert row.strong_logprob - row.weak_logprob == pytest.approx(row.score)
        assert (row.token_scores, row.num_scored_tokens) == (None, 2)
    [mean] = given(by_text | {"aggregation": "mean"}, inputs[:1]).data
    assert mean.score == pytest.approx((log_ratio(tables, 0, 1) + log_ratio(tables, 1, 2)) / 2)
    with pytest.raises(RewardError, match="no scores by token"):
        given(by_text, inputs, aggregation="per_token_clipped")
    with pytest.raises(RewardError, match="response_mask is about tokens"):
        given(by_text, [{"token_ids": [0, 1], "response_mask": [0, 1]}])


def test_a_long_prompt_loses_its_beginning_only_where_that_is_asked_for_and_says_so(given, tables):
    long = {"prompt": [1] * 12 + [0], "response": [1, 3]}
    with pytest.raises(RewardError, match=r"15 tokens \(13 prompt, 2 answer\); the strong model takes 11"):
        given(RATIO, [long])
    [row] = given(RATIO, [long], truncation="left").data
    assert row.truncated
    assert row.score == pytest.approx(log_ratio(tables, 0, 1) + log_ratio(tables, 1, 3))
    fits, cut = given(RATIO, [{"prompt": [0], "response": [1]}, long], truncation="left", max_tokens=3).data
    assert (fits.truncated, cut.truncated, cut.score) == (None, True, row.score)
    with pytest.raises(RewardError, match="max_tokens is 2"):
        given(RATIO, [long], truncation="left", max_tokens=2)
    with pytest.raises(RewardError, match="100000 tokens"):
        given(RATIO, [{"prompt": [0], "response": [1] * 99_999}], truncation="left")


CRITERIA = {"chat": {"criteria": "a"}, "safety": {"criteria": "b", "exemplars": []}}
TURNS = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "a"}]


def test_criteria_become_the_system_turn_of_both_models(given, toy):
    given(RATIO | {"domains": CRITERIA}, [{"messages": TURNS}])
    rendered = [body["messages"] for route, body in toy.asked if "messages" in body]
    assert rendered[0] == [{"role": "system", "content": "a"}, {"role": "user", "content": "c"}]
    assert {tuple(ids) for _, ids in toy.scored()} == {(0, 1, 0, 3, 0, 1)}


def test_words_route_a_question_and_what_no_word_decides_goes_to_the_default_and_is_counted(given):
    router = {"type": "keywords", "rules": {"safety": ["CAB"], "nowhere": ["c"]}}
    turns = [[{"role": "user", "content": text}, TURNS[1]] for text in ("cab", "cabb", "c")]
    found = given(RATIO | {"domains": CRITERIA, "router": router}, [{"messages": messages} for messages in turns])
    assert [row.domain for row in found.data] == ["safety", "chat", "chat"]
    assert found.routed == {"safety": 1, "chat": 2, "unparsed": 2}


@pytest.mark.parametrize(
    ("said", "domain", "unparsed"),
    [
        ("It is [[ Safety ]].", "safety", 0),
        ("safety", "chat", 1),
        ("[[safety", "chat", 1),
        ("[[law]]", "chat", 1),
        ("", "chat", 1),
    ],
)
def test_a_model_routes_by_its_answer_and_what_cannot_be_read_goes_to_the_default(given, toy, said, domain, unparsed):
    asked = []
    toy.says = lambda text: asked.append(text) or said
    router = {"type": "model", "model": "weak", "prompt": "{domains}? {question}"}
    found = given(RATIO | {"domains": CRITERIA, "router": router}, [{"messages": TURNS}, {"messages": TURNS}])
    assert asked == ["chat, safety? c"]
    assert [row.domain for row in found.data] == [domain] * 2
    assert found.routed.get("unparsed", 0) == 2 * unparsed


def test_a_router_that_does_not_show_the_question_is_refused(given):
    from pydantic import ValidationError

    router = {"type": "model", "model": "weak", "prompt": "Which domain?"}
    with pytest.raises(ValidationError, match="question"):
        given(RATIO | {"domains": CRITERIA, "router": router}, [{"messages": TURNS}])


def conversation(question, answer="yes"):
    return Conversation(messages=[Message(role="user", content=question), Message(role="assistant", content=answer)])


EXEMPLARS = [Exemplar(user=f"u{k}", good=f"g{k}", bad=f"b{k}", explanation=f"e{k}") for k in range(5)]


def told(given, seed=0, domain=None):
    found = customised(given, domain or Domain(exemplars=EXEMPLARS), seed=seed, control=[], param="input[0]")
    return found.messages[-2].content


def test_all_answers_to_a_prompt_share_an_exemplar_which_the_seed_chooses():
    assert told(conversation("q", "one")) == told(conversation("q", "two"))
    chosen = {told(conversation("q"), seed).split("User: ")[1][:2] for seed in range(40)}
    assert chosen == {"u0", "u1", "u2", "u3", "u4"}
    text = told(conversation("the question"))
    assert text.endswith("User: the question\nGood Assistant:")
    assert text.index("Good Assistant: g") < text.index("Bad Assistant: b") < text.index("Explanation: e")


def test_criteria_go_before_a_system_turn_that_is_there():
    messages = [Message(role="system", content="old"), *conversation("q").messages]
    found = customised(Conversation(messages=messages), Domain(criteria="new"), seed=0, control=[], param="input[0]")
    assert [turn.content for turn in found.messages] == ["new\n\nold", "q", "yes"]


@pytest.mark.parametrize("token", ["<|im_end|>", "</s>", "[INST]", "<start_of_turn>", "<|eot_id|>", "<s>"])
def test_control_tokens_in_criteria_are_broken_and_the_users_own_words_are_left(token):
    found = customised(conversation(token), Domain(criteria=f"be kind{token}"), seed=0, control=[], param="input[0]")
    system, user, _ = found.messages
    assert token not in system.content
    assert system.content.replace("\u2060", "") == f"be kind{token}"
    assert user.content == token


def test_the_tokenizers_own_control_tokens_are_broken_too():
    assert escaped("a @@stop@@ b", ["@@stop@@", "@"]) == "a @\u2060@stop@@ b"
