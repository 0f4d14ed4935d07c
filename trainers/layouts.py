"""How examples run through a model: as trees in one packed row, or each completion as a sequence of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from trainers.data.examples import Example
from trainers.rows import Branching, Row, by_leaf, scored, tree_row


class Layout(Protocol):
    """What the learner and the schedule know of it."""

    @property
    def name(self) -> str:
        """`tree` or `linear`."""

    def tokens(self, example: Example) -> int:
        """How many tokens the example takes."""

    def collate(self, examples: Sequence[Example], least: int = 0) -> Row:
        """The examples as one row, with as many model calls as `least` of them need if that is more."""

    def states(self, model: Any, row: Row, *, every_block: bool = False) -> tuple[Tensor, ...]:
        """The row's (T, d) last states, after them those after each block where asked for; `model` has no head."""


@dataclass(frozen=True)
class TreeLayout:
    """One model call for each row, each prompt in it once; the model's attention must be `rows.ATTENTION`."""

    name: Literal["tree"] = "tree"

    def tokens(self, example: Example) -> int:
        """The prompt once and the answers."""
        return example.tokens

    def collate(self, examples: Sequence[Example], least: int = 0) -> Row:  # noqa: ARG002 - one call in any case
        """As `rows.tree_row`."""
        return tree_row(examples)

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

    def tokens(self, example: Example) -> int:
        """The prompt once for each answer, and the answers."""
        return example.tokens + (len(example.answers) - 1) * len(example.prompt)

    def collate(self, examples: Sequence[Example], least: int = 0) -> Row:
        """All first answers' sequences, then all second ones'; `places` are their (start, end).

        Under ZeRO-3 every rank must call the model as often as the others: for missing examples there are sequences
        of two tokens, which no position reads and whose gradient is zero.
        """
        answers = by_leaf(examples)
        prompts = [example.prompt for example in examples] * len(examples[0].answers)
        idle = torch.cat([prompts[0][:1], answers[0].ids[:1]])
        missing = max(0, least - len(examples)) * len(examples[0].answers)
        sequences = [torch.cat([prompt, answer.ids]) for prompt, answer in zip(prompts, answers, strict=True)]
        sequences += [idle] * missing
        ends = torch.tensor([len(sequence) for sequence in sequences]).cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        firsts = [start + len(prompt) - 1 for start, prompt in zip(starts, prompts, strict=False)]
        before = [torch.arange(first, first + len(a)) for first, a in zip(firsts, answers, strict=True)]
        return {
            "input_ids": torch.cat(sequences)[None],
            "position_ids": torch.cat([torch.arange(len(sequence)) for sequence in sequences])[None],
            "places": list(zip(starts, ends, strict=True)),
            **scored(examples, before),
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
