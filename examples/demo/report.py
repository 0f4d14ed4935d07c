"""What the demo shows at the end: answers side by side, a pair's scores, a table of figures, where all lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from examples.demo.figures import Figures
from reward.spec import Score

SHOWN = 3  #: prompts in the comparison


def side_by_side(prompts: Sequence[str], before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]) -> Table:
    """The first answers that tuning has changed: same prompt, same seed, temperature 1."""
    drawn = [
        [(prompt, *pair) for pair in zip(old, new, strict=True)]
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]
    changed = [[row for row in group if row[1] != row[2]] for group in drawn]
    count, total = (sum(map(len, groups)) for groups in (changed, drawn))
    title = f"Same prompt, seed and temperature: {count} of {total} answers changed; the first of {SHOWN} prompts"
    table = Table(title=title, title_justify="left", show_lines=True, expand=True, box=box.SIMPLE)
    table.add_column("before (base)", ratio=1)
    table.add_column("after (tuned policy)", ratio=1)
    for prompt, old, new in [group[0] for group in changed if group][:SHOWN]:
        head = Text(prompt, style="dim", overflow="fold")
        table.add_row(Text.assemble(head, "\n", old.strip()), Text.assemble(head, "\n", new.strip()))
    return table


def scored(scores: tuple[Score, Score]) -> RenderableType:
    """A held-out pair's answers, each token coloured by what it adds to or takes from the reward."""
    table = Table(
        title="POST /v1/rewards: log pi_tuned - log pi_base", title_justify="left", expand=True, box=box.SIMPLE
    )
    for name, width in (("answer", 10), ("nats", 7)):
        table.add_column(name, width=width)
    table.add_column("token by token ([green]for[/], [red]against[/])", ratio=1)
    peak = max(abs(value) for score in scores for value in score.token_scores or [0.0]) or 1.0
    for name, score in zip(("chosen", "rejected"), scores, strict=True):
        table.add_row(name, f"{score.score:+.2f}", _coloured(score, peak))
    return table


def table(figures: Figures) -> Table:
    """The figures that matter, each with what it means; a line is left out where nothing can be said."""
    shown = Table(show_header=False, expand=True, title="The run in numbers", title_justify="left", box=box.SIMPLE)
    shown.add_column(ratio=3)
    shown.add_column(ratio=2)
    for name, value in rows(figures):
        shown.add_row(name, value)
    return shown


def rows(figures: Figures) -> list[tuple[str, str]]:
    """(name, value) lines of the table."""
    f = figures
    priced = "" if f.mask_mean is None else " with the mask's price"
    known: list[tuple[str, str | None]] = [
        (f"loss{priced}, first -> last of {f.steps} steps", _pair(f.loss_first, f.loss_last, ".3f", "", " -> ")),
        ("reward margin (last tenth of the steps)", f"{f.margin_last:.2f}"),
        ("pairs told apart (last tenth)", f"{f.accuracy_last:.0%}"),
        ("KL from the reference, chosen / rejected", _pair(f.kl_chosen_last, f.kl_rejected_last, ".2f", " nats")),
        (
            f"favourable, of {f.answers_per_model} answers",
            _pair(f.favourable_before, f.favourable_after, ".0%", "", " -> "),
        ),
        ("well-formed, of the same", _pair(f.well_formed_before, f.well_formed_after, ".0%", "", " -> ")),
        ("held-out pairs that the reward ranks right", f"{f.held_out_ranked_right:.0%} of {f.held_out_pairs}"),
        ("mask density, mean", _pair(f.mask_density, f.mask_mean, ".2f", "", ", ")),
        ("mask on sentiment words / on the rest", _pair(f.mask_on_sentiment, f.mask_on_other_words, ".3f")),
        ("size of log-ratio there / on the rest", _pair(f.log_ratio_on_sentiment, f.log_ratio_on_other_words, ".3f")),
    ]
    return [(name, value) for name, value in known if value is not None]


def verdict_on_the_mask(figures: Figures) -> str | None:
    """Whether the mask lights up the words that carry the preference, in a sentence; None without both numbers."""
    on, off = figures.mask_on_sentiment, figures.mask_on_other_words
    if on is None or off is None:
        return None
    numbers = f"mean {on:.3f} on sentiment words, {off:.3f} on all other tokens"
    if on > 1.1 * off:
        times = f"{on / off:.1f} times as much" if off > 0 else "they alone"
        return f"The mask lights up sentiment words: {numbers} ({times})."
    if off > 1.1 * on:
        return f"The mask does not light up sentiment words but weighs them less: {numbers}."
    return f"The mask does not tell sentiment words from others: {numbers}."


def places(console: Console, found: Sequence[tuple[str, Path]]) -> None:
    """Where the results lie, one per line, never broken."""
    for name, path in found:
        console.print(f"  {name:<10} {path}", soft_wrap=True, highlight=False)


def _pair(first: float | None, second: float | None, form: str, unit: str = "", joint: str = " / ") -> str | None:
    return None if first is None or second is None else f"{first:{form}}{joint}{second:{form}}{unit}"


def _coloured(score: Score, peak: float) -> Text:
    text = Text()
    for token, value in zip(score.tokens or [], score.token_scores or [], strict=False):
        strength = abs(value) / peak
        weight = "bold " if strength > 0.5 else "" if strength > 0.1 else "dim "
        text.append(token, style=weight + ("green" if value >= 0 else "red") if strength > 0.02 else "dim")
    return text
