"""log π_strong(y | x) − log π_weak(y | x), token by token (2411.02481; core.md section 4.1).

R(x, y) = Σ_t log π_strong(y_t | x, y_<t) − log π_weak(y_t | x, y_<t), both models reading the same token ids,
rendered once by the strong model's tokenizer and template. The sum starts at the answer's first token.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import httpx

from reward.engine import Engine, Scored
from reward.errors import Invalid
from reward.pieces import pieces
from reward.spec import Score, ScoreList, ScoreOrder, Usage
from reward.tokens import Tokens, tokens

T = TypeVar("T")
#: sequences of one order inside the engines at a time
AT_ONCE = 16


async def density_ratio(order: ScoreOrder, client: httpx.AsyncClient) -> ScoreList:
    """Score every input of the order with both models at once; nothing is scored unless all inputs can be.

    Raises Invalid naming the input that cannot be scored or that the two tokenizers read differently, and
    Unavailable if an engine does not answer.
    """
    request = order.request
    strong = _engine("strong model", "strong", request.model.strong, order, client)
    weak = _engine("weak model", "weak", request.model.weak, order, client)
    gate = asyncio.Semaphore(AT_ONCE)
    rows = await _all([_gated(gate, tokens(k, given, strong)) for k, given in enumerate(request.input)])
    await _check_lengths(rows, [strong, weak])
    data = await _all([_score(gate, index, row, (strong, weak), order) for index, row in enumerate(rows)])
    usage = Usage(prompt_tokens=sum(row.start for row in rows), total_tokens=sum(len(row.ids) for row in rows))
    return ScoreList(model=request.model, data=data, usage=usage)


def _engine(role: str, field: str, model: str, order: ScoreOrder, client: httpx.AsyncClient) -> Engine:
    if model not in order.endpoints:
        raise Invalid(f"no endpoint is given for the {role} {model}", param=f"model.{field}")
    return Engine(role, order.endpoints[model], client)


async def _check_lengths(rows: Sequence[Tokens], engines: Sequence[Engine]) -> None:
    for engine in engines:
        most = await engine.context() - 1  # one token is generated
        for index, row in enumerate(rows):
            if len(row.ids) > most:
                said = (
                    f"input[{index}] has {len(row.ids)} tokens ({row.start} prompt, {len(row.ids) - row.start} answer)"
                )
                raise Invalid(f"{said}; the {engine.role} takes {most}", param=f"input[{index}]")


async def _score(
    gate: asyncio.Semaphore, index: int, row: Tokens, engines: tuple[Engine, Engine], order: ScoreOrder
) -> Score:
    async with gate:
        strong, weak = await _all([engine.score(row.ids) for engine in engines])
        _check_same_tokens(index, row, strong, weak)
        texts = await _texts(row, strong, engines[0]) if order.request.include else None
    return _put_together(index, order, texts, strong.logprobs[row.start - 1 :], weak.logprobs[row.start - 1 :])


def _check_same_tokens(index: int, row: Tokens, strong: Scored, weak: Scored) -> None:
    """The ratio means something only if each id is the same piece of text to both models."""
    for place, (ours, theirs) in enumerate(zip(strong.texts, weak.texts, strict=True), start=1):
        if ours != theirs:
            said = (
                f"token {row.ids[place]} of input[{index}] is {ours!r} to the strong and {theirs!r} to the weak model"
            )
            raise Invalid(f"the models have different tokenizers: {said}", param="model.weak")


async def _texts(row: Tokens, strong: Scored, engine: Engine) -> list[str]:
    return pieces(await engine.text(row.ids), strong.texts)[row.start - 1 :]


def _put_together(
    index: int, order: ScoreOrder, texts: list[str] | None, strong: list[float], weak: list[float]
) -> Score:
    wanted, count = order.request.include, len(strong)
    difference = [s - w for s, w in zip(strong, weak, strict=True)]
    total = math.fsum(difference)
    return Score(
        index=index,
        score=total / count if order.request.aggregation == "mean" else total,
        num_scored_tokens=count,
        strong_logprob=math.fsum(strong),
        weak_logprob=math.fsum(weak),
        tokens=texts,
        token_scores=difference if "token_scores" in wanted else None,
        strong_logprobs=strong if "logprobs" in wanted else None,
        weak_logprobs=weak if "logprobs" in wanted else None,
    )


async def _gated(gate: asyncio.Semaphore, work: Awaitable[T]) -> T:
    async with gate:
        return await work


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """Every result in order; at the first failure the rest is cancelled, and that failure is raised as it is."""
    tasks = [asyncio.ensure_future(piece) for piece in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
