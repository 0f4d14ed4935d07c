"""Files to imitate and files of labelled answers: every shape read, every fault named by line and field."""

from __future__ import annotations

import json

import pytest

from trainers.data import records
from trainers.data.binary import Labelled
from trainers.data.lines import BadLine
from trainers.data.marks import Marks, Said, Span
from trainers.data.supervised import Completion, Conversation, Text

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
CHAT = {"messages": [USER, ANSWER]}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOLD = {"prompt": "a", "completion": "bc", "label": True}
KINDS = {"supervised": CHAT, "binary": TOLD, "preference": {"prompt": "a", "chosen": "b", "rejected": "c"}}


@pytest.fixture
def file(tmp_path):
    def write(*rows: object) -> object:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def span(start, end, weight):
    return {"start": start, "end": end, "weight": weight}


def test_openais_conversations_keep_their_weights_apart_from_what_the_template_sees(file):
    spans = [span(2, 5, 0), span(0, 2, 0.5)]
    row = {
        "messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER | {"token_weights": spans, "weight": 2}],
        "weight": 3,
    }
    [found] = records.read(file(row), "supervised")
    marks = (None, Marks(0), None, Marks(2, (Span(0, 2, 0.5), Span(2, 5, 0))))
    assert found == Conversation(1, (USER, ANSWER, USER, ANSWER), marks, None, {"weight": 3})


def test_tools_and_calls_are_taken_and_arguments_read(file):
    tool = {"type": "function", "function": {"name": "add"}}
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row = {
        "messages": [USER, calls, {"role": "tool", "content": "1"}, ANSWER],
        "tools": [tool],
        "parallel_tool_calls": False,
    }
    for tools in ([tool], json.dumps([tool])):
        [found] = records.read(file(row | {"tools": tools}), "supervised")
        assert found.tools == (tool,)
        assert found.messages[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
        assert found.messages[1]["content"] == ""


def test_trls_completions_may_be_texts_messages_or_token_ids(file):
    texts = {"prompt": "a", "completion": "bc", "completion_token_weights": [span(0, 1, 0)]}
    ids = {"prompt": [1], "completion": [2, 3], "completion_token_weights": [0, 0.5]}
    chat = {"prompt": [USER], "completion": [ANSWER], "completion_token_weights": [span(0, 1, 0)]}
    first, second, third = records.read(file(texts, ids, chat), "supervised")
    assert first == Completion(1, "a", Said("bc", Marks(spans=(Span(0, 1, 0),))))
    assert second == Completion(2, (1,), Said((2, 3), Marks(tokens=(0, 0.5))))
    assert third == Conversation(3, (USER, ANSWER), (None, Marks(spans=(Span(0, 1, 0),))))


def test_answers_in_a_prompt_are_not_trained_and_all_in_a_completion_are(file):
    [found] = records.read(file({"prompt": [USER, ANSWER, USER], "completion": [ANSWER, USER, ANSWER]}), "supervised")
    assert found.marks == (None, None, None, Marks(), None, Marks())


def test_bare_texts_are_read_with_their_weights(file):
    [found] = records.read(file({"text": "abc", "token_weights": [span(1, 2, 0)]}), "supervised")
    assert found == Text(1, "abc", Marks(spans=(Span(1, 2, 0),)))


def test_labelled_answers_are_read_in_all_forms(file):
    ids = {"prompt": [1], "completion": [2], "label": False, "weight": 0.5}
    chat = {"prompt": [USER], "completion": [ANSWER], "label": True}
    first, second, third = records.read(file(TOLD, ids, chat), "binary")
    assert first == Labelled(1, "a", Said("bc"), {"label": 1.0})
    assert second == Labelled(2, (1,), Said((2,)), {"weight": 0.5, "label": 0.0})
    assert third == Labelled(3, (USER,), Said((ANSWER,)), {"label": 1.0})


CONVERSATIONS = '{"messages"}, {"prompt", "completion"} or {"text"}'


@pytest.mark.parametrize(
    ("data", "row", "sentence"),
    [
        ("supervised", KINDS["preference"], f"completion is missing: a line is {CONVERSATIONS}"),
        ("supervised", {"input": {}}, f"messages is missing: a line is {CONVERSATIONS}"),
        ("supervised", {"messages": [USER]}, "messages hold no answer of the assistant"),
        ("supervised", {"messages": [ANSWER, USER, ANSWER]}, "messages[0] is the assistant's, with nothing before it"),
        (
            "supervised",
            {"messages": [USER | {"weight": 1}, ANSWER]},
            "messages[0].weight is for messages of the assistant",
        ),
        ("supervised", {"messages": [USER, ANSWER | {"weight": -1}]}, "messages[1].weight must be a number from 0 to"),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"weight": True}]},
            "messages[1].weight must be a number from 0 to",
        ),
        ("supervised", {"messages": [USER, ANSWER | {"weight": float("nan")}]}, "messages[1].weight must be a number"),
        ("supervised", {"messages": [USER, ANSWER | {"weight": 10**400}]}, "messages[1].weight must be a number"),
        ("supervised", CHAT | {"weight": 0}, "weight must be above 0; leave the line out instead"),
        ("supervised", CHAT | {"weight": "1"}, "weight must be a number from 0 to 1000000"),
        ("supervised", CHAT | {"tools": "["}, "tools is not valid JSON: "),
        ("supervised", CHAT | {"tools": [1]}, "tools must be a list of objects"),
        ("supervised", CHAT | {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs are not served here"),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[1].tool_calls[0].function.arguments is not valid JSON: ",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"tool_calls": [{}]}]},
            "messages[1].tool_calls[0].function must be",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"tool_calls": 1}]},
            "messages[1].tool_calls must be a list of objects",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"token_weights": [span(0, 7, 1)]}]},
            "messages[1].token_weights[0] must go from a start to a later end within the 6 characters of its text",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"token_weights": [span(0, 3, 1), span(2, 4, 1)]}]},
            "messages[1].token_weights holds two spans over character 2",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"token_weights": [{"start": 0, "end": 1}]}]},
            "messages[1].token_weights[0].weight is missing",
        ),
        (
            "supervised",
            {"messages": [USER, ANSWER | {"token_weights": [0.5]}]},
            "messages[1].token_weights[0] must be an",
        ),
        ("supervised", {"prompt": "a"}, "completion is missing"),
        ("supervised", {"prompt": [USER], "completion": [USER]}, "completion must hold a message of the assistant"),
        (
            "supervised",
            {"prompt": [USER, ANSWER], "completion": [ANSWER]},
            "prompt must end before the assistant's answer",
        ),
        (
            "supervised",
            {"prompt": [USER, ANSWER | {"weight": 1}, USER], "completion": [ANSWER]},
            "prompt[1] has a weight",
        ),
        ("supervised", {"prompt": "a", "completion": [1]}, "completion must be a text"),
        (
            "supervised",
            {"prompt": [1], "completion": [2, 3], "completion_token_weights": [1]},
            "completion_token_weights must be a list of 2 numbers, one for each token id",
        ),
        (
            "supervised",
            {"prompt": [USER], "completion": [ANSWER, USER, ANSWER], "completion_token_weights": [span(0, 1, 0)]},
            "completion_token_weights needs a completion with one message of the assistant",
        ),
        (
            "supervised",
            {"prompt": [USER], "completion": [ANSWER | {"token_weights": []}], "completion_token_weights": []},
            "give completion[0].token_weights or completion_token_weights, not both",
        ),
        ("supervised", {"text": 1}, "text must be a text"),
        ("binary", CHAT, 'prompt is missing: a line is {"prompt", "completion", "label"}, label true or false'),
        ("binary", TOLD | {"label": None}, "label is missing"),
        ("binary", TOLD | {"label": 1}, "label must be true or false"),
        ("binary", TOLD | {"completion": [ANSWER]}, "completion must be a text"),
        (
            "binary",
            {"prompt": [USER], "completion": [USER], "label": True},
            "completion must be one message of the assistant",
        ),
        (
            "preference",
            CHAT,
            'input is missing: a line is {"input", "preferred_output", "non_preferred_output"} or {"prompt", "chosen", "rejected"}',
        ),
        ("preference", KINDS["preference"] | {"margin": "1"}, "margin must be a number from -1000000 to 1000000"),
        (
            "preference",
            KINDS["preference"] | {"chosen_token_weights": [span(0, 2, 1)]},
            "chosen_token_weights[0] must go from a start to a later end within the 1 characters of its text",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_fault(file, data, row, sentence):
    with pytest.raises(BadLine) as bad:
        records.check(file(KINDS[data], KINDS[data], row), data)
    assert str(bad.value).startswith(f"line 3: {sentence}")


@pytest.mark.parametrize(
    ("data", "noun"), [("supervised", "conversation"), ("binary", "labelled answer"), ("preference", "preference pair")]
)
def test_an_empty_file_is_told_what_it_lacks(file, data, noun):
    with pytest.raises(BadLine, match=f"line 1: the file holds no {noun}"):
        records.check(file(), data)


def test_a_pairs_margin_and_weights_are_read(file):
    row = {
        "input": {"messages": [USER]},
        "preferred_output": [ANSWER | {"weight": 0.5, "token_weights": [span(0, 2, 0)]}],
        "non_preferred_output": [ANSWER],
        "margin": -1,
        "weight": 2,
    }
    [pair] = records.read(file(row), "preference")
    assert pair.marks == (Marks(0.5, (Span(0, 2, 0),)), Marks())
    assert (pair.chosen, pair.columns) == ((ANSWER,), {"margin": -1, "weight": 2})


def test_a_column_that_the_method_needs_is_missed_by_line(file):
    row = KINDS["preference"]
    assert records.check(file(row | {"margin": 1}, row), "preference") == 2
    with pytest.raises(BadLine, match="line 2: margin is missing, which the method's settings need"):
        records.check(file(row | {"margin": 1}, row), "preference", {"margin"})
