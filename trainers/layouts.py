"""How pairs run through a model: as trees in one packed row, or each completion as a sequence of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from trainers.data.tokens import TokenPair
from trainers.rows import Branching, Row, tree_row


class Layout(Protocol):
    """What the learner and the schedule know of it."""

    @property
    def name(self) -> str:
        """`tree` or `linear`."""

    def tokens(self, row: TokenPair) -> int:
        """How many tokens the pair takes."""

    def collate(self, rows: Sequence[TokenPair], pairs: int = 0) -> Row:
        """The pairs as one row, with as many model calls as `pairs` of them need if that is more."""

    def states(self, model: Any, row: Row, *, every_block: bool = False) -> tuple[Tensor, ...]:
        """The row's (T, d) last states, after them those after each block where asked for; `model` has no head."""


@dataclass(frozen=True)
class TreeLayout:
    """One model call for each row, each prompt in it once; the model's attention must be `rows.ATTENTION`."""

    name: Literal["tree"] = "tree"

    def tokens(self, row: TokenPair) -> int:
        """The prompt once and both answers."""
        return row.tokens

    def collate(self, rows: Sequence[TokenPair], pairs: int = 0) -> Row:  # noqa: ARG002 - one call, whatever the pairs
        """As `rows.tree_row`."""
        return tree_row(rows)

    def states(self, model: Any, row: Row, *, every_block: bool = False) -> tuple[Tensor, ...]:
        """All of the row at once."""
        ids = row["input_ids"]
        out = model(
            input_ids=ids,
            position_ids=row["position_ids"],
            trees=[Branching.of(tree, ids.device) for tree in row["places"]],
            use_cache=False,
            output_hidden_states=every_block,
        )
        return tuple(state[0] for state in _wanted(out, every_block=every_block))


@dataclass(frozen=True)
class LinearLayout:
    """One model call for each completion after its prompt, unpadded: right for every causal architecture."""

    name: Literal["linear"] = "linear"

    def tokens(self, row: TokenPair) -> int:
        """The prompt twice and both answers."""
        return row.tokens + len(row.prompt)

    def collate(self, rows: Sequence[TokenPair], pairs: int = 0) -> Row:
        """All chosen sequences, then all rejected ones; `places` are their (start, end).

        Under ZeRO-3 every rank must call the model as often as the others: for missing `pairs` there are sequences
        of two tokens, which no position reads and whose gradient is zero.
        """
        asked = [row.prompt for row in rows] * 2
        answers = [row.chosen for row in rows] + [row.rejected for row in rows]
        idle = [torch.cat([rows[0].prompt[:1], rows[0].chosen[:1]])] * (2 * max(0, pairs - len(rows)))
        sequences = [torch.cat(both) for both in zip(asked, answers, strict=True)] + idle
        ends = torch.tensor([len(sequence) for sequence in sequences]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        firsts = [start + len(prompt) - 1 for start, prompt in zip(starts, asked, strict=False)]
        lengths = torch.tensor([len(answer) for answer in answers])
        return {
            "input_ids": torch.cat(sequences)[None],
            "position_ids": torch.cat([torch.arange(len(sequence)) for sequence in sequences])[None],
            "places": list(zip(starts, ends, strict=True)),
            "positions": torch.cat([torch.arange(f, f + len(a)) for f, a in zip(firsts, answers, strict=True)]),
            "targets": torch.cat(answers),
            "segment": torch.repeat_interleave(torch.arange(len(answers)), lengths),
            "count": len(answers),
            "most": int(lengths.sum()),
        }

    def states(self, model: Any, row: Row, *, every_block: bool = False) -> tuple[Tensor, ...]:
        """One sequence after the other."""
        parts = []
        for start, end in row["places"]:
            ids = row["input_ids"][:, start:end]
            out = model(input_ids=ids, use_cache=False, output_hidden_states=every_block)
            parts.append([state[0] for state in _wanted(out, every_block=every_block)])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _wanted(out: Any, *, every_block: bool) -> list[Tensor]:
    return [out.last_hidden_state, *(out.hidden_states[1:] if every_block else ())]
