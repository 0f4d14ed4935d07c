"""The shapes of others, there and back."""

import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse

from reward.errors import Invalid
from reward.shapes import ClassifyShape, GetRewardShape, GraderRun, RerankShape, ScoreShape
from reward.spec import Continuation, Conversation, Exchange, Provenance, Score, ScoreList, Usage


def scored(*values, parts=None):
    rows = [Score(index=index, score=value, parts=parts) for index, value in enumerate(values)]
    usage = Usage(prompt_tokens=3, total_tokens=5)
    return ScoreList(model="rm", data=rows, usage=usage, provenance=Provenance(reward_sha256="x"))


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")]
)
def test_score_pairs_one_query_with_all_documents_under_any_of_vllms_names(names):
    shape = ScoreShape.model_validate({"model": "rm", names[0]: "q", names[1]: ["a", "b"], "priority": 3})
    assert shape.asked().input == [Exchange(query="q", answer="a"), Exchange(query="q", answer="b")]
    answer = shape.answer(scored(1.5, -2))
    assert answer["data"] == [
        {"index": 0, "object": "score", "score": 1.5},
        {"index": 1, "object": "score", "score": -2},
    ]
    assert (answer["object"], answer["model"], answer["usage"]["total_tokens"]) == ("list", "rm", 5)


def test_score_refuses_lists_that_do_not_pair_up_and_empty_documents():
    for documents, words in ((["a", "b", "c"], "2 queries for 3 documents"), (["a", ""], "empty")):
        with pytest.raises(Invalid, match=words):
            ScoreShape(model="rm", queries=["q", "r"], documents=documents).asked()
    with pytest.raises(Invalid, match="between 1 and 256"):
        ScoreShape(model="rm", queries="q", documents=[]).asked()


def test_rerank_puts_the_best_first_and_keeps_the_order_of_ties():
    shape = RerankShape(model="rm", query="q", documents=["a", {"text": "b"}, "c"], top_n=2)
    results = shape.answer(scored(0.5, 2, 0.5))["results"]
    assert results == [
        {"index": 1, "document": {"text": "b"}, "relevance_score": 2},
        {"index": 0, "document": {"text": "a"}, "relevance_score": 0.5},
    ]


def test_classify_gives_the_score_where_verl_looks_for_it():
    whole = ClassifyShape(model="rm", input="all of it", use_activation=False)
    assert whole.asked().input == [Continuation(prompt="", response="all of it")]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert ClassifyShape(model="rm", messages=turns).asked().input == [Conversation.model_validate({"messages": turns})]
    assert whole.answer(scored(-3.5))["data"][-1]["probs"][-1] == -3.5
    with pytest.raises(Invalid, match="input or messages"):
        ClassifyShape(model="rm").asked()


def test_get_reward_scores_what_follows_each_prompt_and_its_logs_are_the_parts():
    shape = GetRewardShape(model="rm", query=["<q>a", "<r>b"], prompts=["<q>", "<r>"], labels=["7", ""])
    one, two = shape.asked().input
    assert one == Continuation(prompt="<q>", response="a", reference="7")
    assert two == Continuation(prompt="<r>", response="b")
    assert shape.answer(scored(1, 2, parts={"x": 0.5})) == {
        "rewards": [1, 2],
        "scores": [1, 2],
        "extra_logs": {"x": [0.5, 0.5]},
    }
    with pytest.raises(Invalid, match=r"query\[0\] does not begin with its prompt"):
        GetRewardShape(model="rm", query=["xa"], prompts=["<q>"]).asked()


def grader(*turns, **more):
    return {"type": "score_model", "name": "g", "model": "rm", "input": list(turns)} | more


def test_a_grader_fills_its_places_and_the_sample_answers():
    user = {"role": "user", "content": [{"type": "input_text", "text": "{{ item.q }} ({{item.n.k}})"}]}
    run = GraderRun(
        grader=grader({"role": "developer", "content": "s"}, user),
        model_sample="yes",
        item={"q": "Why?", "n": {"k": [1]}, "reference": 7},
    )
    [given] = run.asked().input
    assert [(turn.role, turn.content) for turn in given.messages] == [
        ("system", "s"),
        ("user", "Why? ([1])"),
        ("assistant", "yes"),
    ]
    assert given.reference == "7"
    placed = GraderRun(
        grader=grader(user | {"content": "q"}, {"role": "assistant", "content": "<{{sample.output_text}}>"}),
        model_sample="yes",
    )
    assert placed.asked().input[0].messages[-1].content == "<yes>"


def test_a_graders_answer_is_what_the_official_client_reads():
    run = GraderRun(grader=grader({"role": "user", "content": "q"}, range=(0, 1)), model_sample="a")
    found = GraderRunResponse.model_validate(run.answer(scored(3.5, parts={"x": 2}), 0.25))
    assert (found.reward, found.sub_rewards, found.metadata.scores) == (1, {"x": 2}, {"g": 3.5})
    assert (found.metadata.type, found.metadata.token_usage, found.metadata.execution_time) == ("score_model", 5, 0.25)
    assert not any(value for value in found.metadata.errors.model_dump().values())


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"role": "user", "content": "{{item.missing}}"}, "which the run does not have"),
        ({"role": "tool", "content": "x"}, "role must be"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "must be text"),
    ],
)
def test_a_grader_that_cannot_be_filled_is_refused(turn, words):
    with pytest.raises(Invalid, match=words) as caught:
        GraderRun(grader=grader(turn), model_sample="a").asked()
    assert caught.value.param.startswith("grader.input[0]")
