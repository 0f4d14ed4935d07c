"""Preference files: both dialects read alike, every fault named by line and field."""

from __future__ import annotations

import json

import pytest

from trainers.data import lines, records
from trainers.data.lines import BadLine
from trainers.data.preference import read_pairs


def check_pairs(path):
    return records.check(path, "preference")


USER = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "No."}
OPENAI = {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}


@pytest.fixture
def file(tmp_path):
    def write(*lines: object) -> object:
        path = tmp_path / "pairs.jsonl"
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"\n".join(texts) + b"\n")
        return path

    return write


def without(row: dict, *names: str) -> dict:
    return {key: value for key, value in row.items() if key not in names}


def test_openai_rows_and_their_older_names_read_alike(file):
    older = {"input": OPENAI["input"], "preferred_completion": [GOOD], "non_preferred_completion": [BAD]}
    first, second = read_pairs(file(OPENAI, older))
    assert (first.prompt, first.chosen, first.rejected) == ((USER,), (GOOD,), (BAD,))
    assert (second.prompt, second.chosen, second.rejected) == (first.prompt, first.chosen, first.rejected)
    assert (first.line, second.line) == (1, 2)


def test_tools_reach_the_pair(file):
    tool = {"type": "function", "function": {"name": "look"}}
    row = OPENAI | {"input": {"messages": [USER], "tools": [tool], "parallel_tool_calls": True}}
    [pair] = read_pairs(file(row))
    assert pair.tools == (tool,)


def test_trl_rows_may_be_texts_messages_or_token_ids(file):
    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    messages = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    ids = {"prompt": [1], "chosen": [2, 3], "rejected": [4]}
    first, second, third = read_pairs(file(texts, messages, ids))
    assert (first.prompt, first.chosen, first.rejected) == ("a", "b", "c")
    assert (second.prompt, second.chosen, second.rejected) == ((USER,), (GOOD,), (BAD,))
    assert (third.prompt, third.chosen, third.rejected) == ((1,), (2, 3), (4,))


def test_text_parts_are_joined(file):
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "y"}]
    row = OPENAI | {"input": {"messages": [{"role": "user", "content": parts}]}}
    [pair] = read_pairs(file(row))
    assert pair.prompt == ({"role": "user", "content": "Hey"},)


def test_blank_lines_are_passed_over_and_a_byte_order_mark_is_no_text(file):
    path = file(b"\xef\xbb\xbf" + json.dumps(OPENAI).encode(), b"", b"  ", OPENAI)
    assert check_pairs(path) == 2
    assert [pair.line for pair in read_pairs(path)] == [1, 4]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (without(OPENAI, "preferred_output"), "preferred_output is missing"),
        (without(OPENAI, "non_preferred_output"), "non_preferred_output is missing"),
        (without(OPENAI, "input"), "input is missing"),
        (OPENAI | {"input": {}}, "input.messages is missing"),
        (OPENAI | {"input": "Hi"}, "input must be an object with messages"),
        (OPENAI | {"input": {"messages": []}}, "input.messages must be a list of messages, and not empty"),
        (OPENAI | {"input": {"messages": ["Hi"]}}, "input.messages[0] must be a message with role and content"),
        (OPENAI | {"input": {"messages": [{"role": "robot", "content": ""}]}}, "input.messages[0].role must be one of"),
        (OPENAI | {"input": {"messages": [{"role": "user"}]}}, "input.messages[0].content is missing"),
        (OPENAI | {"input": {"messages": [USER, GOOD]}}, "input.messages must end before the assistant's answer"),
        (OPENAI | {"input": {"messages": [USER], "tools": 1}}, "input.tools must be a list of objects"),
        (OPENAI | {"preferred_output": [USER]}, "preferred_output must be one message of the assistant"),
        (OPENAI | {"preferred_output": [GOOD, GOOD]}, "preferred_output must be one message of the assistant"),
        (OPENAI | {"preferred_output": "Hello!"}, "preferred_output must be a list of messages"),
        (
            OPENAI | {"preferred_output": [{"role": "assistant", "content": [{"type": "image_url"}]}]},
            "preferred_output[0].content[0] must be a text part",
        ),
        ({"prompt": "a", "chosen": "b"}, "rejected is missing"),
        ({"chosen": "b", "rejected": "c"}, "prompt is missing"),
        ({"prompt": "a", "chosen": [2], "rejected": "c"}, "chosen must be a text"),
        (
            {"prompt": [], "chosen": [2], "rejected": [3]},
            "prompt must be a text, a list of messages or a list of token",
        ),
        ({"prompt": [1], "chosen": [-2], "rejected": [3]}, "chosen must be a list of token ids"),
        ({"prompt": [1], "chosen": [True], "rejected": [3]}, "chosen must be a list of token ids"),
        ({"prompt": [1], "chosen": [2], "rejected": []}, "rejected must be a list of token ids"),
        ({"prompt": "\ud800", "chosen": "b", "rejected": "c"}, "prompt holds half of a surrogate pair"),
        ([1, 2], "not a JSON object"),
        ("text", "not a JSON object"),
        (b'{"prompt": ', "not valid JSON: "),
        (b'{"prompt": "\xff"}', "the text is not UTF-8 (byte 13 of the line)"),
        (b"[" * 100_000, "the JSON is nested too deeply"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_a_bad_line_is_named_with_its_fault(file, row, sentence):
    with pytest.raises(BadLine) as bad:
        check_pairs(file(OPENAI, OPENAI, row))
    assert str(bad.value).startswith(f"line 3: {sentence}")
    assert bad.value.line == 3


def test_an_empty_file_is_refused(file):
    for path in (file(b""), file(b"\n\n ")):
        with pytest.raises(BadLine, match="the file holds no preference pair"):
            check_pairs(path)


def test_a_line_without_end_is_refused_before_it_is_held(file, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(BadLine, match="line 1: the line is longer than 1 MiB"):
        check_pairs(file(b"x" * 2**21))
