"""Users' own weights: of characters, of token ids, of answers and of lines, in files of every kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.families import FAMILIES, byte_level, metaspace
from trainers.data import binary, preference, supervised
from trainers.data.encoder import Encoder
from trainers.data.lines import BadLine
from trainers.data.replies import LeftOut
from trainers.data.tokens import tokenise
from trainers.data.trees import plant


def encoder(make=byte_level) -> Encoder:
    tokenizer = FAMILIES["mistral"].tokenizer(make)
    return Encoder(tokenizer, len(tokenizer))


def span(start: int, end: int, weight: float) -> dict:
    return {"start": start, "end": end, "weight": weight}


def pieces(answer, told: Encoder) -> list[tuple[str, float]]:
    weights = [1.0] * len(answer) if answer.weights is None else answer.weights.tolist()
    return list(zip(told.tokenizer.convert_ids_to_tokens(answer.ids.tolist()), weights, strict=True))


def test_a_token_over_several_spans_gets_its_characters_mean():
    told = encoder()
    text = " house there"
    spans = [span(1, 3, 0), span(3, 6, 0.5), span(7, 12, 3)]
    row = {"prompt": "the", "chosen": text, "rejected": "a", "chosen_token_weights": spans}
    chosen, rejected = plant(preference.parse(1, row), told).examples[0].answers
    assert pieces(chosen, told) == [
        ("Ġhouse", pytest.approx((1 + 2 * 0 + 3 * 0.5) / 6)),
        ("Ġthere", pytest.approx((1 + 5 * 3) / 6)),
        ("</s>", 1.0),
    ]
    assert rejected.weights is None


@pytest.mark.parametrize(
    ("make", "character", "tokens"),
    [
        (byte_level, "日", ["æĹ", "¥"]),
        (byte_level, "😀", ["ð", "Ł", "ĺ", "Ģ"]),
        (metaspace, "€", ["<0xE2>", "<0x82>", "<0xAC>"]),
    ],
)
def test_all_bytes_of_a_character_count_what_it_counts(make, character, tokens):
    told = encoder(make)
    row = {"prompt": "a", "completion": f"x{character}é", "completion_token_weights": [span(1, 2, 0.25)]}
    [answer] = plant(supervised.parse(1, row), told).examples[0].answers
    assert [piece for piece in pieces(answer, told) if piece[1] != 1] == [(token, 0.25) for token in tokens]


def test_zero_spans_leave_exact_zeros_and_a_full_span_its_weight():
    told = encoder()
    spans = [span(0, 1, 0), span(1, 4, 0), span(4, 6, 0), span(6, 12, 0.1)]
    row = {"prompt": "the", "chosen": " house there", "rejected": "a", "chosen_token_weights": spans}
    chosen = plant(preference.parse(1, row), told).examples[0].answers[0]
    assert chosen.weights.tolist() == torch.tensor([0, 0.1, 1]).tolist()
    assert chosen.scored.tolist() == [1, 2]


def in_bytes(token: str, make) -> bytes:
    """A token's bytes by the published rules of its kind, without its library."""
    if make is byte_level:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        names = {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}
        return bytes(names[character] for character in token)
    return bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode()


@settings(max_examples=100, deadline=None)
@given(
    text=st.text("ab é日😀 \nhouse", min_size=1, max_size=16).filter(str.strip),
    make=st.sampled_from([byte_level, metaspace]),
    data=st.data(),
)
def test_every_weight_is_the_mean_over_the_characters_whose_bytes_the_token_holds(text, make, data):
    told = encoder(make)
    each = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=len(text), max_size=len(text)))
    row = {"prompt": "go:", "completion": text, "label": True}
    row["completion_token_weights"] = [span(k, k + 1, w) for k, w in enumerate(each)]
    *found, end = pieces(plant(binary.parse(1, row), told).examples[0].answers[0], told)
    assert end == ("</s>", 1.0)
    assert b"".join(in_bytes(token, make) for token, _ in found) == text.encode()
    owners = [place for place, character in enumerate(text) for _ in character.encode()]
    for token, weight in found:
        count = len(in_bytes(token, make))
        mine, owners = sorted(set(owners[:count])), owners[count:]
        assert weight == pytest.approx(sum(each[place] for place in mine) / len(mine))


def test_lists_of_floats_weigh_token_ids():
    told = encoder()
    row = {"prompt": [5], "chosen": [7, 8], "rejected": [9, 10, 11], "rejected_token_weights": [0, 0.5, 1]}
    chosen, rejected = plant(preference.parse(1, row), told).examples[0].answers
    assert chosen.weights is None
    assert rejected.weights.tolist() == [0, 0.5, 1]
    [answer] = (
        plant(
            supervised.parse(1, {"prompt": [5], "completion": [6, 7, 8, 9], "completion_token_weights": [0, 2, 0, 0]}),
            told,
        )
        .examples[0]
        .answers
    )
    assert (answer.ids.tolist(), answer.weights.tolist()) == ([6, 7, 8, 9], [0, 2, 0, 0])


def test_a_message_weight_multiplies_its_spans_and_its_end():
    told = encoder()
    answer = {"role": "assistant", "content": "ab", "weight": 0.5, "token_weights": [span(0, 1, 0.5)]}
    row = {"prompt": [{"role": "user", "content": "go"}], "chosen": [answer], "rejected": [answer | {"content": "cd"}]}
    chosen, rejected = plant(preference.parse(1, row), told).examples[0].answers
    assert pieces(chosen, told) == [("a", 0.25), ("b", 0.5), ("</s>", 0.5)]
    assert pieces(rejected, told) == [("c", 0.25), ("d", 0.5), ("</s>", 0.5)]


def test_an_answer_without_a_weighted_token_is_left_out_and_counted():
    told = encoder()
    rows = [
        {"prompt": [1], "chosen": [2], "rejected": [3], "chosen_token_weights": [0]},
        {"prompt": [1], "chosen": [2], "rejected": [3]},
    ]
    kept = tokenise([preference.parse(k, row) for k, row in enumerate(rows, 1)], told, limit=9)
    assert kept.describe() == "1 pair (1 left out: no weighted token)"
    with pytest.raises(LeftOut, match="no weighted token"):
        plant(supervised.parse(1, {"text": "ab</s>", "token_weights": [span(0, 6, 0)]}), told)


def test_what_a_line_says_of_itself_reaches_its_example():
    told = encoder()
    rows = [{"prompt": [1], "chosen": [2], "rejected": [3]} | more for more in ({}, {"margin": -2, "weight": 0.5})]
    kept = tokenise([preference.parse(k, row) for k, row in enumerate(rows, 1)], told, limit=9)
    assert [row.columns for row in kept.rows] == [{}, {"margin": -2, "weight": 0.5}]
    [text] = tokenise([supervised.parse(1, {"text": "abc", "weight": 3})], told, limit=9, data="supervised").rows
    assert text.weight == 3


def test_a_tokenizer_that_tells_no_places_takes_no_spans():
    told = encoder()

    class Slow:
        """The same, as tokenizers in plain Python are."""

        is_fast = False

        def __call__(self, text, *, add_special_tokens, return_offsets_mapping):
            assert not return_offsets_mapping
            return told.tokenizer(text, add_special_tokens=add_special_tokens)

        def __getattr__(self, name):
            return getattr(told.tokenizer, name)

    slow, row = Encoder(Slow(), 999), {"prompt": "a", "completion": "bc"}
    assert (
        plant(supervised.parse(1, row), slow).examples[0].answers[0].ids.tolist()
        == plant(supervised.parse(1, row), told).examples[0].answers[0].ids.tolist()
    )
    with pytest.raises(BadLine, match="line 4: token_weights need a tokenizer that tells its tokens' places"):
        plant(supervised.parse(4, row | {"completion_token_weights": [span(0, 1, 0.5)]}), slow)
