"""The packed row: an example is a tree, the prompt once and its answers as leaves; many trees lie end to end.

Everything in a model but attention works token by token, so a row runs through it as one unpadded sequence.
Attention keeps leaves and neighbours apart: an answer attends to its prompt and to itself, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from trainers.data.examples import WEIGHT, Answer, Example
from trainers.reference import Reference

#: the attention's name among transformers' implementations
ATTENTION = "prefserve_tree"
#: what some architectures ask of their attention and this one does not do
FOREIGN = ("sliding_window", "softcap", "s_aux")


class Scored(TypedDict):
    """The N tokens that count of P examples, in their S completions: all first answers, then all second."""

    positions: Tensor  #: (N,) in 0..T-1: the state that predicts each of them
    targets: Tensor  #: (N,) their ids
    weights: Tensor  #: (N,) float32, what each of them counts
    segment: Tensor  #: (N,) in 0..S-1
    count: int  #: S
    most: int  #: bound on N over all ranks, the same on each
    columns: Mapping[str, Tensor]  #: (P,) float32 each: what the file says of the examples; always their `weight`
    reference: NotRequired[Reference]  #: of their tokens, where there is a store


class Row(Scored):
    """T tokens of one forward pass; `places` says where each tree (in the linear layout, each sequence) lies in it."""

    input_ids: Tensor  #: (1, T)
    position_ids: Tensor  #: (1, T), each token's distance from the root of its tree
    places: Sequence[Any]


def on(device: torch.device, row: Row) -> Row:
    """The row with its tensors on a device."""
    movable = (Tensor, Reference)
    moved = {name: value.to(device) if isinstance(value, movable) else value for name, value in row.items()}
    moved["columns"] = {name: column.to(device) for name, column in row["columns"].items()}
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


def plant(examples: Sequence[Example]) -> tuple[Tree, ...]:
    """The examples' places, end to end from 0."""
    trees, start = [], 0
    for example in examples:
        fork = start + len(example.prompt)
        trees.append(Tree(start, fork, tuple(accumulate(map(len, example.answers), initial=fork))[1:]))
        start = trees[-1].ends[-1]
    return tuple(trees)


def tree_row(examples: Sequence[Example]) -> Row:
    """P examples as one row of their P trees: T the tokens of prompts and answers, each once."""
    trees = plant(examples)
    leaves = range(len(trees[0].leaves))
    before = [_states_before(tree, leaf) for leaf in leaves for tree in trees]
    parts = [part for example in examples for part in (example.prompt, *(answer.ids for answer in example.answers))]
    return {
        "input_ids": torch.cat(parts)[None],
        "position_ids": torch.cat([depth for tree in trees for depth in _depths(tree)])[None],
        "places": trees,
        **scored(examples, before),
    }


def scored(examples: Sequence[Example], before: Sequence[Tensor]) -> Scored:
    """The tokens that count; `before` holds, for each completion, the place of the state that predicts each token."""
    answers = by_leaf(examples)
    lengths = torch.tensor([len(answer.scored) for answer in answers])
    columns = {name: torch.tensor([e.columns[name] for e in examples]) for name in examples[0].columns}
    return {
        "positions": torch.cat([places[answer.scored] for places, answer in zip(before, answers, strict=True)]),
        "targets": torch.cat([answer.ids[answer.scored] for answer in answers]),
        "weights": torch.cat([answer.scored_weights for answer in answers]),
        "segment": torch.repeat_interleave(torch.arange(len(answers)), lengths),
        "count": len(answers),
        "most": int(lengths.sum()),
        "columns": columns | {WEIGHT: torch.tensor([example.weight for example in examples])},
    }


def only(scored: Scored, example: int) -> tuple[Tensor, Scored]:
    """The places, in 0..N-1, of one example's tokens, and what `scored` says of them."""
    examples = len(scored["columns"][WEIGHT])
    places = (scored["segment"] % examples == example).nonzero()[:, 0]
    part: Scored = {
        "positions": scored["positions"][places],
        "targets": scored["targets"][places],
        "weights": scored["weights"][places],
        "segment": scored["segment"][places] // examples,
        "count": scored["count"] // examples,
        "most": scored["most"],
        "columns": {name: column[example : example + 1] for name, column in scored["columns"].items()},
    }
    return places, part


def by_leaf(examples: Sequence[Example]) -> list[Answer]:
    """All first answers, then all second."""
    return [answer for leaf in zip(*(example.answers for example in examples), strict=True) for answer in leaf]


def _states_before(tree: Tree, leaf: int) -> Tensor:
    """An answer's first token is predicted at the prompt's end, each other one at the token before it."""
    place = tree.leaves[leaf]
    return torch.cat([torch.tensor([tree.fork - 1]), torch.arange(place.start, place.stop - 1)])


def _depths(tree: Tree) -> list[Tensor]:
    prompt = tree.fork - tree.start
    answers = [torch.arange(prompt, prompt + leaf.stop - leaf.start) for leaf in tree.leaves]
    return [torch.arange(prompt), *answers]


@dataclass(frozen=True)
class Branching:
    """A tree with the masks of its further leaves, (answer, prompt + answer) each: built once for all layers."""

    tree: Tree
    masks: tuple[Tensor, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of the trunk (prompt and first answer) and of each further leaf."""
        ends = self.tree.ends
        return [end - start for start, end in pairwise((self.tree.start, *ends))]

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
    sizes = [size for one in trees for size in one.sizes]
    columns = zip(*(torch.split(x, sizes, dim=2) for x in (query, key, value)), strict=True)
    pieces = [piece for one in trees for piece in _attend_in(one, list(islice(columns, len(one.sizes))), scaling)]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _attend_in(one: Branching, parts: Sequence[tuple[Tensor, ...]], scaling: float | None) -> list[Tensor]:
    """Queries, keys and values of a tree's trunk and of each further leaf → what they get."""
    (query, *memory), *leaves = parts
    pieces = [_attend(query, (memory[0], memory[1]), scaling)]
    prompt = [x[:, :, : one.tree.fork - one.tree.start] for x in memory]
    for (asking, *own), mask in zip(leaves, one.masks, strict=True):
        seen = tuple(torch.cat(both, dim=2) for both in zip(prompt, own, strict=True))
        pieces.append(_attend(asking, seen, scaling, mask))
    return pieces


def _attend(query: Tensor, memory: tuple[Tensor, ...], scaling: float | None, mask: Tensor | None = None) -> Tensor:
    key, value = memory
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )


AttentionInterface.register(ATTENTION, tree_attention)
