"""What `bench.frontier` computes by itself: rewards, pairs, masks on words, estimates, its runs and its picture."""

from __future__ import annotations

import pytest

from bench import evaluate, frontier_picture, frontier_runs, real_input, sentiment
from bench.frontier_runs import RUNS
from trainers.spec import METHODS

WORDS = {"happy": 3.0, "sad": -2.0, "so": 0.0}


def test_a_texts_worth_is_the_sum_over_its_words_in_any_case():
    assert sentiment.worth("Happy, so HAPPY; sadly not sad. Unhappy!", WORDS) == 3 + 3 - 2


def test_the_held_out_judge_knows_no_word_of_the_reward():
    assert sentiment.without({"happy": 2.5, "glee": 3.0}, WORDS) == {"glee": 3.0}


def test_a_lexicon_is_read_by_its_first_two_columns(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("can't stand\t-3\nglee\t3.2\t0.4\t[3, 3]\n")
    assert sentiment.read_lexicon(file) == {"can't stand": -3.0, "glee": 3.2}


def test_variety_is_the_share_of_different_words():
    assert sentiment.variety("so happy, so happy") == 0.5
    assert sentiment.variety("...") == 0


def test_the_tokens_of_a_word_are_found_across_their_borders():
    tokens = ["Ha", "pp", "y", " is", " un", "happy", ", so", " s", "ad"]
    assert sentiment.places(tokens, WORDS) == {0, 1, 2, 7, 8}


def test_a_mask_is_averaged_on_and_off_the_words():
    answer = {"tokens": [" a", " happy", " b"], "mask": [0.0, 4.0, 1.0]}
    found = sentiment.lit([{"chosen": answer, "rejected": answer}] * 10, "mask", WORDS)
    assert (found["on_words"], found["off_words"], found["density"]) == (4.0, 0.5, pytest.approx(2 / 3))
    assert found["highest"] == [[" happy", 4.0], [" b", 1.0], [" a", 0.0]]
    assert found["lowest"][0] == [" a", 0.0]


def test_a_token_seen_too_rarely_is_not_listed():
    answer = {"tokens": [" happy", " a"], "mask": [4.0, 0.0]}
    assert sentiment.lit([{"chosen": answer, "rejected": answer}] * 9, "mask", WORDS)["highest"] == []


def test_the_best_sample_meets_the_worst():
    samples = [{"text": text, "token_ids": [i]} for i, text in enumerate(("so", "happy", "sad", "happy happy"))]
    pairs = real_input.best_against_worst(samples, lambda text: sentiment.worth(text, WORDS), 2)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [([3], [2]), ([1], [0])]


def test_an_estimate_has_the_standard_error_of_the_mean():
    assert evaluate.estimate([1.0, 3.0]) == {"mean": 2.0, "se": pytest.approx(1.0)}


def test_every_run_has_its_own_name_and_settings_that_its_method_takes():
    assert len({run.name for run in RUNS}) == len(RUNS)
    for run in RUNS:
        if run.method:
            METHODS[run.method].model_validate(
                {"type": run.method, run.method: {"hyperparameters": dict(run.settings)}}
            )


@pytest.mark.realdata
@pytest.mark.parametrize("family", ["harmless", "sums"])
def test_no_held_out_line_is_trained_on(realdata, family):
    train = frontier_runs.training(family, realdata, list)
    kept = frontier_runs.held_out(family, realdata)
    assert len(train) == frontier_runs.TRAIN[family]
    assert len(kept) == frontier_runs.HELD_OUT[family]
    assert not {str(row) for row in kept} & {str(row) for row in train}


@pytest.mark.realdata
def test_a_transcript_is_cut_to_its_last_human_turn(realdata):
    for row in real_input.harmless(realdata, 640):
        assert row["prompt"].startswith("\n\nHuman:")
        assert row["prompt"].endswith("\n\nAssistant:")
        assert row["prompt"].count("\n\nHuman:") == 1
        assert row["chosen"].strip()
        assert row["rejected"].strip()


def test_the_picture_has_a_point_for_every_run_and_the_base_model(tmp_path):
    judged = {name: {"mean": 1.0, "se": 0.1} for name in ("afinn", "vader_unseen", "kl")}
    runs = [{"family": "afinn", "judged": judged}, {"family": "afinn", "series": "dpo", "judged": judged}]
    frontier_picture.draw(runs, tmp_path / "frontier.svg")
    drawn = (tmp_path / "frontier.svg").read_text()
    assert "<!-- dpo -->" in drawn
    assert "<!-- base model -->" in drawn
