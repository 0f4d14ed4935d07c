"""The packed row: a pair is a tree, the prompt once and its answers as leaves; many trees lie end to end.

Everything in a model but attention works token by token, so a row runs through it as one unpadded sequence.
Attention keeps leaves and neighbours apart: an answer attends to its prompt and to itself, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from trainers.data.tokens import TokenPair

#: the attention's name among transformers' implementations
ATTENTION = "prefserve_tree"
#: what some architectures ask of their attention and this one does not do
FOREIGN = ("sliding_window", "softcap", "s_aux")


class Row(TypedDict):
    """T tokens of one forward pass, N of them in its S completions, leaf by leaf: all first answers, then all second.

    Integer tensors; `places` says where each tree (or, in the linear layout, each sequence) lies in the row.
    """

    input_ids: Tensor  #: (1, T)
    position_ids: Tensor  #: (1, T), each token's distance from the root of its tree
    places: Sequence[Any]
    positions: Tensor  #: (N,) in 0..T-1: the state that predicts each completion token
    targets: Tensor  #: (N,) the completion tokens
    segment: Tensor  #: (N,) in 0..S-1
    count: int  #: S
    most: int  #: bound on N over all ranks, the same on each
    reference: NotRequired[Tensor]  #: (B, N, d) of `reference.ReferenceStore`, where there is one


def on(device: torch.device, row: Row) -> Row:
    """The row with its tensors on a device."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in row.items()}
    return cast("Row", moved)


class ForeignAttention(ValueError):
    """The architecture's attention is more than softmax over the past."""


@dataclass(frozen=True)
class Tree:
    """Where one prompt and its answers lie: the prompt in [start, fork), then the leaves, up to their `ends`."""

    start: int
    fork: int
    ends: tuple[int, ...]

    @property
    def leaves(self) -> tuple[slice, ...]:
        """Each answer's place."""
        return tuple(slice(first, end) for first, end in pairwise((self.fork, *self.ends)))


def plant(rows: Sequence[TokenPair]) -> tuple[Tree, ...]:
    """The pairs' places, end to end from 0."""
    trees, start = [], 0
    for row in rows:
        fork = start + len(row.prompt)
        chosen = fork + len(row.chosen)
        trees.append(Tree(start, fork, (chosen, chosen + len(row.rejected))))
        start = trees[-1].ends[-1]
    return tuple(trees)


def tree_row(rows: Sequence[TokenPair]) -> Row:
    """P pairs as one row of their P trees: S = 2P completions, T the tokens of prompts and answers, each once."""
    trees = plant(rows)
    answers = [row.chosen for row in rows] + [row.rejected for row in rows]
    before = [_states_before(tree, leaf) for leaf in range(2) for tree in trees]
    lengths = torch.tensor([len(answer) for answer in answers])
    return {
        "input_ids": torch.cat([part for row in rows for part in (row.prompt, row.chosen, row.rejected)])[None],
        "position_ids": torch.cat([depth for tree in trees for depth in _depths(tree)])[None],
        "places": trees,
        "positions": torch.cat([part for parts in before for part in parts]),
        "targets": torch.cat(answers),
        "segment": torch.repeat_interleave(torch.arange(len(answers)), lengths),
        "count": len(answers),
        "most": int(lengths.sum()),
    }


def _states_before(tree: Tree, leaf: int) -> tuple[Tensor, Tensor]:
    """An answer's first token is predicted at the prompt's end, each other one at the token before it."""
    place = tree.leaves[leaf]
    return torch.tensor([tree.fork - 1]), torch.arange(place.start, place.stop - 1)


def _depths(tree: Tree) -> list[Tensor]:
    prompt = tree.fork - tree.start
    answers = [torch.arange(prompt, prompt + leaf.stop - leaf.start) for leaf in tree.leaves]
    return [torch.arange(prompt), *answers]


@dataclass(frozen=True)
class Branching:
    """A tree with the masks of its further leaves, (answer, prompt + answer) each: built once for all layers."""

    tree: Tree
    masks: tuple[Tensor, ...]

    @classmethod
    def of(cls, tree: Tree, device: torch.device) -> Branching:
        """All of the prompt, and the answer up to the token itself."""
        prompt = tree.fork - tree.start
        sizes = [leaf.stop - leaf.start for leaf in tree.leaves[1:]]
        ones = [torch.ones(size, prompt + size, dtype=torch.bool, device=device) for size in sizes]
        return cls(tree, tuple(mask.tril(prompt) for mask in ones))


def tree_attention(  # noqa: PLR0913 - transformers' signature
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the trees say it
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - the policy's loader has set it to 0
    trees: Sequence[Branching] | None = None,
    **foreign: Any,
) -> tuple[Tensor, None]:
    """(1, H, T, D) queries and (1, G, T, D) keys and values of a row → (1, T, H, D).

    Exact and unpadded: prompt and first answer are one causal sequence, each further answer a piece of its own over
    the prompt's keys and its own. Without trees plain causal attention. Raises ForeignAttention where the
    architecture asks for windows, sinks or capped scores. One SDPA call for each piece, on GPU too.
    """
    asked = [name for name in FOREIGN if foreign.get(name) is not None]
    if asked:
        raise ForeignAttention(f"its attention uses {', '.join(asked)}")
    if trees is None:
        return _attend(query, (key, value), scaling).transpose(1, 2), None
    pieces = [piece for one in trees for piece in _attend_in(one, query, (key, value), scaling)]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _attend_in(one: Branching, query: Tensor, memory: tuple[Tensor, Tensor], scaling: float | None) -> list[Tensor]:
    prompt, trunk = slice(one.tree.start, one.tree.fork), slice(one.tree.start, one.tree.ends[0])
    pieces = [_attend(query[:, :, trunk], tuple(x[:, :, trunk] for x in memory), scaling)]
    for leaf, mask in zip(one.tree.leaves[1:], one.masks, strict=True):
        seen = tuple(torch.cat([x[:, :, prompt], x[:, :, leaf]], dim=2) for x in memory)
        pieces.append(_attend(query[:, :, leaf], seen, scaling, mask))
    return pieces


def _attend(query: Tensor, memory: tuple[Tensor, ...], scaling: float | None, mask: Tensor | None = None) -> Tensor:
    key, value = memory
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )


AttentionInterface.register(ATTENTION, tree_attention)
