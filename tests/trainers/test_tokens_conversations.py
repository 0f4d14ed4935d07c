"""Conversations to ids and weights, over the templates of real families: what is trained is what the model must say."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.families import FAMILIES, Family, byte_level, metaspace
from trainers.data import supervised
from trainers.data.encoder import Encoder
from trainers.data.lines import BadLine
from trainers.data.replies import LeftOut
from trainers.data.tokens import tokenise
from trainers.data.trees import Planted, plant

CHAT = [("user", "How are you?"), ("assistant", "Fine, Zoë. 日本"), ("user", "Good\n"), ("assistant", "And you?")]


def messages(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def encoder(family: Family, make=byte_level) -> Encoder:
    tokenizer = family.tokenizer(make)
    return Encoder(tokenizer, len(tokenizer), family.stop_ids(tokenizer))


def planted(row: dict, encoder: Encoder) -> Planted:
    return plant(supervised.parse(1, row), encoder)


def written(family: Family, chat: list[dict]) -> list[tuple[str, bool]]:
    """The conversation by hand, in stretches that are the model's or not: independent of templates."""
    parts: list[tuple[str, bool]] = [(family.bos or "", False)]
    for message in chat:
        ours, content = message["role"] == "assistant", message["content"]
        head, body, tail = {
            "chatml": (f"<|im_start|>{message['role']}\n", content, "<|im_end|>"),
            "llama3": (f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", content.strip(), "<|eot_id|>"),
            "mistral": ("", content, "</s>") if ours else ("[INST] ", content, " [/INST]"),
            "gemma": (f"<start_of_turn>{'model' if ours else 'user'}\n", content.strip(), "<end_of_turn>"),
            "phi3": (f"<|{message['role']}|>\n", content, "<|end|>"),
        }["chatml" if "<|im_end|>" in family.special else family.name]
        rest = "\n" if family.rest else ""
        parts += [(head, False), (body + tail, ours), (rest, False)]
    return parts


def by_hand(family: Family, chat: list[dict], tokenizer) -> tuple[list[int], list[bool]]:
    """Ids and mask up to the last trained token, from the characters of one tokenisation of the whole."""
    parts = written(family, chat)
    owners = [ours for text, ours in parts for _ in text]
    found = tokenizer("".join(text for text, _ in parts), add_special_tokens=False, return_offsets_mapping=True)
    mask = [owners[start] for start, _ in found["offset_mapping"]]
    last = max(place for place, ours in enumerate(mask) if ours) + 1
    return found["input_ids"][:last], mask[:last]


def sequence(result: Planted) -> tuple[list[int], list[float]]:
    [answer] = result.examples[0].answers
    weights = [1.0] * len(answer) if answer.weights is None else answer.weights.tolist()
    return (
        result.examples[0].prompt.tolist() + answer.ids.tolist(),
        [0.0] * len(result.examples[0].prompt) + weights,
    )


def runs(told: Encoder, result: Planted) -> list[tuple[str, float]]:
    """The sequence as stretches of equal weight."""
    pairs = groupby(zip(*sequence(result), strict=True), key=lambda pair: pair[1])
    return [(told.text([one for one, _ in run]), weight) for weight, run in pairs]


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_in_every_family_the_models_turns_with_their_ends_are_trained_and_nothing_else(family, make):
    told = encoder(family, make)
    result = planted({"messages": messages(*CHAT)}, told)
    ids, mask = by_hand(family, messages(*CHAT), told.tokenizer)
    assert sequence(result) == (ids, [float(ours) for ours in mask])
    assert (result.lost, result.misread, result.endless) == (Counter(), None, False)
    assert result.examples[0].prompt.tolist() == told.tokenizer.apply_chat_template(
        messages(*CHAT[:1]), add_generation_prompt=True, return_dict=False
    )


contents = st.text("ab é日😀.\n?hiou", min_size=1, max_size=10).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(FAMILIES)), said=st.lists(contents, min_size=2, max_size=6), data=st.data())
def test_weights_and_mask_are_those_of_a_mask_by_characters(name, said, data):
    family, chat = FAMILIES[name], messages(*zip(["user", "assistant"] * 3, said, strict=False))
    weights = [data.draw(st.sampled_from([None, 0, 1, 0.25])) for _ in chat]
    row = [
        m | {"weight": w} if m["role"] == "assistant" and w is not None else m
        for m, w in zip(chat, weights, strict=True)
    ]
    trained = [k for k, m in enumerate(row) if m["role"] == "assistant" and m.get("weight", 1)]
    told = encoder(family)
    if not trained:
        with pytest.raises(LeftOut, match="no weighted token"):
            planted({"messages": row}, told)
        return
    chat = chat[: trained[-1] + 1]
    ids, mask = by_hand(family, chat, told.tokenizer)
    got, got_weights = sequence(planted({"messages": row}, told))
    assert got == ids
    each = [float(m.get("weight", 1)) for m in row[: len(chat)] if m["role"] == "assistant"]
    turns = [len(list(run)) for ours, run in groupby(mask) if ours]
    between = [len(list(run)) for ours, run in groupby(mask) if not ours]
    want = [w for gap, turn, weight in zip(between, turns, each, strict=True) for w in [0.0] * gap + [weight] * turn]
    assert got_weights == want


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    make=st.sampled_from([byte_level, metaspace]),
    said=st.lists(st.text("a é日\n <>|_[/hiou", min_size=1, max_size=10), min_size=2, max_size=6),
)
def test_every_trained_turn_stands_behind_exactly_the_ids_that_ask_for_it(name, make, said):
    family, chat = FAMILIES[name], messages(*zip(["user", "assistant"] * 3, said, strict=False))
    told = encoder(family, make)
    try:
        result = planted({"messages": chat}, told)
    except LeftOut:
        return
    held = []
    for example in result.examples:
        ids, weights = sequence(Planted((example,)))
        for place, message in enumerate(chat):
            if message["role"] != "assistant" or not message["content"].strip():
                continue
            prompt = told.tokenizer.apply_chat_template(chat[:place], add_generation_prompt=True, tokenize=False)
            asked = told.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if ids[: len(asked)] != asked or not any(weights[len(asked) :][:1]):
                continue
            end = next((k for k in range(len(asked), len(ids)) if weights[k] == 0), len(ids))
            read = told.text(ids[:end])
            assert read.endswith(family.end)
            assert read.removesuffix(family.end).rstrip().endswith(message["content"].strip())
            held.append(place)
    turns = sum(m["role"] == "assistant" for m in chat)
    assert len(held) == len(set(held)) == turns - result.lost.total()


def test_what_follows_the_last_trained_turn_is_not_read_at_all():
    told = encoder(FAMILIES["chatml"])
    longer = messages(*CHAT, ("user", "Bye"), ("assistant", "Never mind"))
    longer[-1]["weight"] = 0
    assert sequence(planted({"messages": longer}, told)) == sequence(planted({"messages": messages(*CHAT)}, told))


def test_a_turn_whose_thoughts_the_template_drops_later_is_an_example_of_its_own_and_told():
    told = encoder(FAMILIES["qwen3"])
    thinking = messages(
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "<think>hm hm hm hm</think>d"),
        ("user", "e"),
        ("assistant", "f"),
    )
    first, second = planted({"messages": thinking}, told).examples
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
    begin = turn.format("a", "b<|im_end|>\n")
    assert told.text([*first.prompt, *first.answers[0].ids]) == begin + turn.format(
        "c", "<think>hm hm hm hm</think>d<|im_end|>"
    )
    dropped = begin + turn.format("c", "d<|im_end|>\n") + turn.format("e", "f<|im_end|>")
    assert told.text([*second.prompt, *second.answers[0].ids]) == dropped
    trained = [[told.text(e.answers[0].ids[e.answers[0].scored])] for e in (first, second)]
    assert trained == [["<think>hm hm hm hm</think>d<|im_end|>"], ["b<|im_end|>f<|im_end|>"]]
    kept = tokenise([supervised.parse(1, {"messages": thinking})], told, limit=99, data="supervised")
    reason = "1 further example of turns that the chat template renders differently once more follows"
    assert kept.describe() == f"1 conversation ({reason})"
    shortest = min(len(e.prompt) + len(e.answers[0]) for e in (first, second))
    short = tokenise([supervised.parse(1, {"messages": thinking})], told, limit=shortest, data="supervised")
    assert len(short.rows) == 1
    assert "1 turn not trained: longer than" in short.describe()


def test_a_template_whose_prompt_changes_once_it_is_answered_leaves_the_line_out():
    rewriting = "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    told = encoder(Family("rewriting", rewriting, ("<e>",), None, "<e>", "<e>"))
    with pytest.raises(LeftOut, match="renders the prompt differently once it is answered"):
        planted({"messages": messages(*CHAT)}, told)


def test_an_answer_without_an_end_is_trained_as_rendered_and_told(byte_tokenizer):
    tokenizer = byte_tokenizer()
    told = Encoder(tokenizer, len(tokenizer))
    result = planted({"messages": messages(*CHAT[:2])}, told)
    assert told.text(result.examples[0].answers[0].ids) == "Fine, Zoë. 日本\n"
    kept = tokenise([supervised.parse(1, {"messages": messages(*CHAT)})], told, limit=99, data="supervised")
    assert kept.describe() == "1 conversation (1 end without a token that stops a generation)"


def test_an_empty_turn_is_not_trained_and_told_and_a_line_of_such_turns_is_left_out():
    told = encoder(FAMILIES["chatml"])
    result = planted({"messages": messages(("user", "a"), ("assistant", " "), *CHAT[2:])}, told)
    assert told.text(result.examples[0].answers[0].ids) == "And you?<|im_end|>"
    assert result.lost == {"empty answer": 1}
    with pytest.raises(LeftOut, match="empty answer"):
        planted({"messages": messages(("user", "a"), ("assistant", ""))}, told)


def test_tools_and_calls_are_rendered_with_arguments_as_objects_and_trained():
    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    told = encoder(Family("tools", template, FAMILIES["chatml"].special, None, "<|im_end|>", "<|im_end|>", "\n"))
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "tools": [{"type": "function"}],
        "messages": [
            {"role": "user", "content": "1+0"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "one"},
        ],
    }
    result = planted(row, told)
    trained = [text for text, weight in runs(told, result) if weight]
    assert trained == ['{"a": 1}<|im_end|>', "one<|im_end|>"]
    assert told.text(result.examples[0].prompt).startswith('[{"type": "function"}]<|im_start|>user')


def test_character_spans_of_one_turn_weigh_its_tokens_where_the_template_puts_them():
    told = encoder(FAMILIES["llama3"])  # which strips contents
    spans = [{"start": 2, "end": 4, "weight": 0}, {"start": 4, "end": 6, "weight": 0.5}]
    answer = {"role": "assistant", "content": "  日本 é\n", "token_weights": spans, "weight": 2}
    row = {"messages": [*messages(CHAT[0]), answer, *messages(("user", "日本"), ("assistant", "日本"))]}
    result = planted(row, told)
    assert runs(told, result)[1:] == [
        (" é", 1.0),
        ("<|eot_id|>", 2.0),
        (
            "<|start_header_id|>user<|end_header_id|>\n\n日本<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            0.0,
        ),
        ("日本<|eot_id|>", 1.0),
    ]
    assert told.text(result.examples[0].prompt).endswith("<|end_header_id|>\n\n日本")


def test_spans_over_a_content_that_the_template_rewrites_are_refused():
    shouting = "{% for m in messages %}{{ m.content | upper }};{% endfor %}"
    told = encoder(Family("shouting", shouting, ("<e>",), None, "<e>", "<e>"))
    answer = {"role": "assistant", "content": "ab", "token_weights": [{"start": 0, "end": 1, "weight": 0.5}]}
    with pytest.raises(BadLine, match="line 1: the model's chat template rewrites this answer"):
        planted({"messages": [*messages(CHAT[0]), answer]}, told)
