"""log π_strong − log π_weak of answers, both models reading the same ids or, where asked, the same text.

The tokens are made once, by the strong model's tokenizer and template; what is scored is a list of places in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward.engine import Engine, Scored
from reward.errors import Invalid
from reward.inputs import AnyInput
from reward.models.base import Run
from reward.pieces import pieces
from reward.together import together
from reward.tokens import Tokens, cut, tokens


@dataclass(frozen=True)
class Ratio:
    """Two models' log-probs of the scored tokens, in nats; by token where the tokens are the same."""

    strong: list[float]
    weak: list[float]  #: as long as `strong` unless each model has read its own tokens
    row: Tokens
    texts: list[str] | None  #: of the scored tokens, the strong model's

    @property
    def total(self) -> float:
        """Σ log π_strong − Σ log π_weak."""
        return math.fsum(self.strong) - math.fsum(self.weak)


async def ratios(
    inputs: Sequence[AnyInput],
    strong: Engine,
    weak: Engine,
    run: Run,
    *,
    own_tokens: bool = False,
    select: Callable[[int, Tokens], Tokens] = lambda _, row: row,
) -> list[Ratio]:
    """Every input's log-probs under both models; nothing is scored unless all inputs can be.

    `own_tokens`: the weak model reads the strong model's text in its own tokens. `select` chooses what is scored.
    Raises Invalid naming the input that cannot be scored or that the two tokenizers read differently, Unavailable
    if an engine does not answer, Broken if it does not answer with numbers.
    """
    rows = await together([tokens(index, given, strong) for index, given in enumerate(inputs)])
    chosen = [select(index, row) for index, row in enumerate(rows)]
    rows = await _fitted(chosen, [strong] if own_tokens else [strong, weak], run)
    if own_tokens:
        return await together([_by_text(index, row, strong, weak, run) for index, row in enumerate(rows)])
    return await together([_by_token(index, row, strong, weak, run) for index, row in enumerate(rows)])


async def _fitted(rows: Sequence[Tokens], engines: Sequence[Engine], run: Run) -> list[Tokens]:
    limits = [(await engine.context() - 1, f"the {engine.role} takes") for engine in engines]  # one is generated
    if run.max_tokens is not None:
        limits.append((run.max_tokens, "max_tokens is"))
    most, who = min(limits, key=lambda limit: limit[0])
    return [_fit(index, row, most, who, truncate=run.truncate) for index, row in enumerate(rows)]


def _fit(index: int, row: Tokens, most: int, who: str, *, truncate: bool) -> Tokens:
    if len(row.ids) <= most:
        return row
    answer = len(row.ids) - row.start
    if truncate and answer < most:
        return row.fitted(most)
    said = f"input[{index}] has {len(row.ids)} tokens ({row.start} prompt, {answer} answer); {who} {most}"
    raise Invalid(said, param=f"input[{index}]")


async def _by_token(index: int, row: Tokens, strong: Engine, weak: Engine, run: Run) -> Ratio:
    ours, theirs = await together([strong.score(row.ids), weak.score(row.ids, cached=True)])
    _check_same_tokens(index, row, ours, theirs)
    texts = await _texts(row, ours, strong) if run.texts else None
    return Ratio(_chosen(ours, row), _chosen(theirs, row), row, texts)


async def _by_text(index: int, row: Tokens, strong: Engine, weak: Engine, run: Run) -> Ratio:
    """The weak model reads the strong model's text, prompt and answer told apart as in `tokens`."""
    param = f"input[{index}]"
    prompt, whole = await strong.text(row.ids[: row.start]), await strong.text(row.ids)
    before, joint = await _read(prompt, weak), await _read(whole, weak)
    ids, start = await cut(param, before, joint, whole.removeprefix(prompt), weak)
    if not 0 < start < len(ids):
        raise Invalid(f"{param} has no prompt or no answer in the {weak.role}'s tokens", param=param)
    theirs_row = Tokens(ids, list(range(start, len(ids))))
    _fit(index, theirs_row, await weak.context() - 1, f"the {weak.role} takes", truncate=False)
    ours, theirs = await together([strong.score(row.ids), weak.score(ids, cached=True)])
    texts = await _texts(row, ours, strong) if run.texts else None
    return Ratio(_chosen(ours, row), _chosen(theirs, theirs_row), row, texts)


async def _read(text: str, engine: Engine) -> list[int]:
    """A text that may begin with its BOS already: never with two."""
    bare, whole = await together([engine.tokens(text, special=False), engine.tokens(text, special=True)])
    return bare if bare[:1] == whole[:1] else whole


def _check_same_tokens(index: int, row: Tokens, strong: Scored, weak: Scored) -> None:
    """The ratio means something only if each id is the same piece of text to both models."""
    for place, (ours, theirs) in enumerate(zip(strong.texts, weak.texts, strict=True), start=1):
        if ours != theirs:
            said = (
                f"token {row.ids[place]} of input[{index}] is {ours!r} to the strong and {theirs!r} to the weak model"
            )
            raise Invalid(
                f"the models have different tokenizers: {said}; alignment `sequence` compares whole answers",
                param="model.weak",
            )


async def _texts(row: Tokens, strong: Scored, engine: Engine) -> list[str]:
    found = pieces(await engine.text(row.ids), strong.texts)
    return [found[place - 1] for place in row.scored]


def _chosen(scored: Scored, row: Tokens) -> list[float]:
    return [scored.logprobs[place - 1] for place in row.scored]
