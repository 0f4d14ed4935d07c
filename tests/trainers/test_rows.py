"""Packed rows: the same losses and gradients as padded ones, and nothing seen that is not one's own past."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from trainers.data.examples import Example, pair
from trainers.layouts import LinearLayout, TreeLayout
from trainers.learner import Learner
from trainers.objectives import DPO, SparsePO
from trainers.policy import load_policy
from trainers.probe import choose
from trainers.rows import Branching, Tree, tree_attention, tree_row

PARTS = ("prompt", "chosen", "rejected")


@pytest.fixture
def learn(assign):
    """A learner that has moved from its start, in some layout."""

    def made(layout, objective=None, dtype=torch.float64) -> Learner:
        torch.manual_seed(0)
        policy = load_policy(assign("dpo"), torch.float32)
        if layout == TreeLayout():
            assert choose(policy.get_base_model()).layout == layout
        learner = Learner(policy, objective or SparsePO(mask="learned_independent", l1_reward=0.01), layout)
        draw = torch.Generator().manual_seed(5)
        for parameter in (p for p in learner.parameters() if p.requires_grad):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
        return exact(learner.to(dtype))

    return made


def exact(learner: Learner) -> Learner:
    """Llama's norms compute in float32 whatever they are given: torch's own take their place."""
    for module in list(learner.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, LlamaRMSNorm):
                own = torch.nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=norm.weight.dtype)
                own.weight = norm.weight
                setattr(module, name, own)
    return learner


def losses_and_gradients(learner: Learner, rows: list[Example]) -> list[torch.Tensor]:
    losses, *_ = learner(learner.layout.collate(rows))
    losses.sum().backward()
    return [losses.detach(), *(p.grad for p in learner.parameters() if p.requires_grad)]


@pytest.mark.parametrize("layout", [TreeLayout(), LinearLayout()], ids=lambda layout: layout.name)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_packed_rows_train_as_padded_ones_do(learn, rows, Padded, layout, dtype, tolerance):  # noqa: N803
    ours = losses_and_gradients(learn(layout, dtype=dtype), rows)
    theirs = losses_and_gradients(learn(Padded(), dtype=dtype), rows)
    apart = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)]
    assert max(apart) <= tolerance
    assert min(float(b.norm()) for b in theirs) > 0
    assert torch.equal(losses_and_gradients(learn(Padded(pad=77), dtype=dtype), rows)[0], theirs[0])


def parts_of(row: Example) -> dict[str, torch.Tensor]:
    return dict(zip(PARTS, (row.prompt, *(answer.ids for answer in row.answers)), strict=True))


def moved(rows: list[Example], place: int, part: str, token: int) -> list[Example]:
    changed = {name: ids.clone() for name, ids in parts_of(rows[place]).items()}
    changed[part][token] = (changed[part][token] + 1) % 128
    return [pair(row.line, **changed) if row is rows[place] else row for row in rows]


def changes(learner: Learner, rows: list[Example], place: int, part: str, token: int) -> list[bool]:
    """For each completion (five chosen, five rejected), does its log-prob move when one token elsewhere does?"""
    with torch.no_grad():
        before, after = (
            learner.completions(learner.layout.collate(each)) for each in (rows, moved(rows, place, part, token))
        )
    return [bool((before.logp[before.segment == s] != after.logp[after.segment == s]).any()) for s in range(10)]


@pytest.mark.parametrize("part", PARTS)
def test_a_changed_token_moves_its_own_leaf_alone_and_a_prompts_both(learn, rows, part):
    learner = learn(TreeLayout(), DPO())
    for place, row in enumerate(rows):
        for token in {0, len(parts_of(row)[part]) - 1}:
            own = {"prompt": {place, place + 5}, "chosen": {place}, "rejected": {place + 5}}[part]
            assert {s for s, changed in enumerate(changes(learner, rows, place, part, token)) if changed} == own


def test_without_the_separation_the_same_check_fails(learn, rows):
    class Leaky(TreeLayout):
        def states(self, model, row, *, every_block=False):
            out = model(input_ids=row["input_ids"], position_ids=row["position_ids"], use_cache=False)
            return (out.last_hidden_state[0],)

    learner = learn(TreeLayout(), DPO())
    learner.layout = Leaky()
    assert sum(changes(learner, rows, 0, "chosen", 0)) > 1


def test_a_worked_row_prompt_once_and_each_answer_after_it():
    pairs = [
        pair(1, torch.tensor([10, 11]), torch.tensor([20, 21, 22]), torch.tensor([30])),
        pair(2, torch.tensor([12]), torch.tensor([23]), torch.tensor([31, 32])),
    ]
    row = tree_row(pairs)
    assert row["places"] == (Tree(0, 2, (5, 6)), Tree(6, 7, (8, 10)))
    assert row["input_ids"].tolist() == [[10, 11, 20, 21, 22, 30, 12, 23, 31, 32]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 1, 2]]
    assert row["targets"].tolist() == [20, 21, 22, 23, 30, 31, 32]
    assert row["positions"].tolist() == [1, 2, 3, 6, 1, 6, 8]
    assert row["segment"].tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert row["count"] == 4


@pytest.mark.parametrize("ends", [(7,), (7, 9), (6, 9, 14, 15)])
def test_tree_attention_is_softmax_over_ones_own_past(ends):
    """For any number of leaves, grouped heads too, against one dense mask over the row."""
    trees = [Tree(0, 3, ends), Tree(ends[-1], ends[-1] + 2, (ends[-1] + 3, ends[-1] + 7))]
    size = trees[-1].ends[-1]
    draw = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(1, heads, size, 4, generator=draw, dtype=torch.double, requires_grad=True) for heads in (4, 2, 2)
    )
    seen = torch.zeros(size, size, dtype=torch.bool)
    for tree in trees:
        for leaf in tree.leaves:
            for t in (*range(tree.start, tree.fork), *range(leaf.start, leaf.stop)):
                seen[t, tree.start : min(t + 1, tree.fork)] = True
                seen[t, leaf.start : t + 1 if t >= leaf.start else leaf.start] = True
    scores = (q @ k.repeat_interleave(2, 1).mT * 0.3).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
    branchings = [Branching.of(tree, q.device) for tree in trees]
    found, _ = tree_attention(torch.nn.Module(), q, k, v, None, scaling=0.3, trees=branchings)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn(found.shape, generator=draw, dtype=torch.double)
    ours, theirs = (torch.autograd.grad((weights * out).sum(), (q, k, v)) for out in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
