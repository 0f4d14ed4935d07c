"""One pair's tokens as a self-contained HTML page: what the mask weighs and where the policy has moved."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1f2933; --paper: #fff; --faint: #667; --mask: 42 111 187;
        --up: 42 111 187; --down: 200 97 31; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14181d; --faint: #9aa4b1;
        --mask: 92 160 240; --up: 92 160 240; --down: 240 140 70; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; }
p.row { margin: .2rem 0 .6rem; line-height: 2.1; }
.token { border-radius: 3px; padding: .15em .1em; white-space: pre-wrap; }
small, .name { color: var(--faint); } .name { font-size: .85rem; margin: .4rem 0 0; }
.scale { display: inline-block; width: 8rem; height: .7rem; border-radius: 3px; vertical-align: middle; }
</style></head><body>
<h1>$title</h1>
<p>$prompt</p>
$answers
<p><small>$notes</small></p>
</body></html>
""")
COLUMNS = {"mask": "mask weight", "log_ratio": "log-ratio of the policy over its reference"}


def write(masks: dict[str, Any], title: str, notes: str, path: Path) -> Path:
    """The page for the first pair of a `token_masks.json`; every token shows its numbers under the pointer."""
    pair = masks["examples"][0]
    answers = "\n".join(_answer(side, pair[side], _peaks(pair)) for side in ("chosen", "rejected"))
    prompt = f"Prompt: {escape(pair['prompt'])}"
    path.write_text(PAGE.substitute(title=escape(title), prompt=prompt, answers=answers, notes=escape(notes)))
    return path


def _peaks(pair: dict[str, Any]) -> dict[str, float]:
    """The largest size of each column over both answers: full colour."""
    both = (pair["chosen"], pair["rejected"])
    return {
        column: max(abs(value) for answer in both for value in answer[column]) or 1.0
        for column in COLUMNS
        if column in both[0]
    }


def _answer(side: str, answer: dict[str, Any], peaks: dict[str, float]) -> str:
    rows = [f"<h2>{side.capitalize()} answer</h2>"]
    for column, peak in peaks.items():
        rows.append(f'<p class="name">{COLUMNS[column]} {_scale(column, peak)}</p>')
        rows.append(f'<p class="row">{_tokens(answer, column, peak)}</p>')
    return "\n".join(rows)


def _tokens(answer: dict[str, Any], column: str, peak: float) -> str:
    shown = []
    for place, (token, value) in enumerate(zip(answer["tokens"], answer[column], strict=True)):
        style = f"background:{_colour(column, value / peak)}"
        shown.append(f'<span class="token" style="{style}" title="{_told(answer, place)}">{escape(token)}</span>')
    return "".join(shown)


def _told(answer: dict[str, Any], place: int) -> str:
    known = [name for name in ("mask", "log_ratio", "kl") if name in answer]
    return ", ".join(f"{name.replace('_', '-')} {answer[name][place]:.3f}" for name in known)


def _colour(column: str, share: float) -> str:
    """Share of the peak as the colour's opacity, so that it reads on light and on dark paper alike."""
    name = "mask" if column == "mask" else "up" if share >= 0 else "down"
    return f"rgb(var(--{name}) / {0.75 * abs(share):.3f})"


def _scale(column: str, peak: float) -> str:
    low = 0.0 if column == "mask" else -1.0
    stops = ", ".join(_colour(column, share) for share in (low, (low + 1) / 2, 1.0))
    bar = f'<span class="scale" style="background:linear-gradient(to right, {stops})"></span>'
    return f"{low * peak:.2f} {bar} {peak:.2f}"
