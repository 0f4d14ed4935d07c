"""The demo's numbers, from inputs small enough to count by hand."""

from __future__ import annotations

import json

import pytest

from examples.demo import figures, heatmap, plots, report
from reward.spec import Score

GOOD = "The plot is warm, and the cast is clever. I loved every minute of it."
BAD = "The plot is flat, and the cast is dull. I hated every minute of it."


def score(value: float) -> Score:
    return Score(
        index=0,
        score=value,
        num_scored_tokens=2,
        strong_logprob=-1.0,
        weak_logprob=-1.0 - value,
        tokens=["The", " plot"],
        token_scores=[value, 0.0],
    )


def answer(mask: list[float]) -> dict:
    return {
        "tokens": ["The", " plot", " is", " wa", "rm", "."],
        "mask": mask,
        "log_ratio": [0, 0, 0, -2, 4, 1],
        "kl": [0.1] * 6,
    }


def step(number: int) -> dict[str, float]:
    return {
        "step": number,
        "total_steps": 20,
        "train_loss": 1 / number,
        "rewards/margins": number,
        "rewards/accuracies": 1,
        "sampled/kl/chosen": 0.5,
        "sampled/kl/rejected": 1.5,
        "mask/density": 0.75,
        "mask/mean": 0.6,
    }


@pytest.fixture
def results():
    masks = {"examples": [{"prompt": "<b>?", "chosen": answer([0, 0, 0, 3, 1, 1]), "rejected": answer([1] * 6)}]}
    return figures.Results(
        curve=[step(number) for number in range(1, 21)],
        before=[[GOOD, BAD], [BAD, "nonsense"]],
        after=[[GOOD, GOOD], [GOOD, BAD]],
        scores=[(score(2.5), score(-1.5)), (score(0.5), score(1.0))],
        masks=masks,
    )


def test_the_end_of_a_run_is_the_mean_of_its_last_tenth(results):
    assert figures.at_the_end(results.curve, "rewards/margins") == 19.5
    assert figures.at_the_end(results.curve, "absent") is None


def test_shares_are_counted_over_all_answers(results):
    found = figures.gather("sparsepo", results, reviews=True)
    assert (found.favourable_before, found.favourable_after) == (0.25, 0.75)
    assert (found.well_formed_before, found.well_formed_after) == (0.75, 1.0)
    assert found.answers_per_model == 4
    assert found.held_out_ranked_right == 0.5


def test_every_token_of_a_split_sentiment_word_counts_as_sentiment():
    assert figures.sentiment_tokens(["The", " plot", " is", " wa", "rm", "."]) == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]


def test_the_mask_is_averaged_apart_on_sentiment_and_on_all_else(results):
    found = figures.gather("sparsepo", results, reviews=True)
    assert found.mask_on_sentiment == (3 + 1 + 1 + 1) / 4
    assert found.mask_on_other_words == (0 + 0 + 0 + 1 + 1 + 1 + 1 + 1) / 8
    assert found.log_ratio_on_sentiment == 3
    assert found.log_ratio_on_other_words == 0.25


def test_on_answers_that_are_no_reviews_nothing_is_said_about_sentiment(results):
    found = figures.gather("dpo", results, reviews=False)
    assert found.favourable_after is None
    assert found.mask_on_sentiment is None
    assert found.loss_first == 1.0


def test_the_last_line_is_json_with_null_for_what_is_not_known(results):
    found = figures.gather("dpo", results, reviews=False)
    line = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert line["favourable_before"] is None
    assert line["loss_last"] == round((1 / 19 + 1 / 20) / 2, 4)


@pytest.mark.parametrize(
    ("on", "off", "said"),
    [
        (1.5, 0.5, "lights up sentiment words: mean 1.500 on sentiment words, 0.500 on all other tokens (3.0 times"),
        (0.5, 1.5, "does not light up"),
        (1.0, 1.0, "does not tell"),
        (1.0, 0.0, "they alone"),
    ],
)
def test_the_sentence_about_the_mask_follows_the_numbers(results, on, off, said):
    found = figures.gather("sparsepo", results, reviews=True)
    numbers = {**vars(found), "mask_on_sentiment": on, "mask_on_other_words": off}
    assert said in report.verdict_on_the_mask(figures.Figures(**numbers))


def test_rows_without_a_number_are_left_out_of_the_table(results):
    shown = dict(report.rows(figures.gather("dpo", results, reviews=False)))
    assert shown["loss with the mask's price, first -> last of 20 steps"] == "1.000 -> 0.051"
    assert not [name for name in shown if "favourable" in name]


def test_the_page_shows_every_token_with_its_numbers_and_escapes_the_prompt(results, tmp_path):
    page = heatmap.write(results.masks, "Title", "Notes", tmp_path / "tokens.html").read_text()
    assert page.count('class="token"') == 2 * 2 * 6
    assert 'title="mask 3.000, log-ratio -2.000, kl 0.100"' in page
    assert "&lt;b&gt;?" in page
    assert "<b>" not in page
    assert "rgb(var(--mask) / 0.750)" in page


def test_the_plot_is_a_png_with_a_panel_for_each_metric_that_was_logged(results, tmp_path):
    four = plots.draw(results.curve, "sparsepo", tmp_path / "four.png").read_bytes()
    plain = [{name: value for name, value in one.items() if "mask" not in name} for one in results.curve]
    three = plots.draw(plain, "dpo", tmp_path / "three.png").read_bytes()
    assert four[:8] == three[:8] == b"\x89PNG\r\n\x1a\n"
    width = [int.from_bytes(png[16:20], "big") for png in (four, three)]
    assert width[0] * 3 == width[1] * 4
