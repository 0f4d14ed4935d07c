"""What a file may weigh: tokens, examples and, by their margin, pairs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers.data.examples import Answer, Example, pair
from trainers.layouts import LinearLayout, TreeLayout
from trainers.learner import Learner
from trainers.objectives import DPO, KTO, Completions, Objective, SparsePO, Supervised
from trainers.policy import load_policy
from trainers.probe import choose


@pytest.fixture
def learn(assign):
    def make(objective: Objective) -> Learner:
        torch.manual_seed(0)
        policy = load_policy(assign("dpo"), torch.float32)
        learner = Learner(policy, objective, choose(policy.get_base_model()).layout).double()
        for parameter in (p for p in learner.parameters() if p.requires_grad):
            parameter.data += 0.05 * torch.randn_like(parameter)
        return learner

    return make


def weighed(rows: list[Example], draw: int = 0) -> list[Example]:
    """The same pairs with a weight from {0, ½, 1, 2} on each token but an answer's first."""
    torch.manual_seed(draw)
    choices = torch.tensor([0.0, 0.5, 1.0, 2.0])

    def weights(answer: Answer) -> Tensor:
        drawn = choices[torch.randint(4, (len(answer),))]
        drawn[0] = 1
        return drawn

    return [dataclasses.replace(row, answers=tuple(Answer(a.ids, weights(a)) for a in row.answers)) for row in rows]


@pytest.mark.parametrize("layout", [TreeLayout(), LinearLayout()], ids=lambda layout: layout.name)
def test_tokens_of_no_weight_are_read_and_not_scored(rows, layout):
    marked = weighed(rows)
    row, plain = layout.collate(marked), layout.collate(rows)
    kept = torch.cat([a.weights for leaf in range(2) for a in (r.answers[leaf] for r in marked)]) > 0
    assert torch.equal(row["input_ids"], plain["input_ids"])
    for name in ("positions", "targets", "segment"):
        assert torch.equal(row[name], plain[name][kept])
    assert 0 < len(row["weights"]) == row["most"] < plain["most"]


def test_a_weight_multiplies_its_tokens_log_ratio_and_kl(learn, rows):
    marked = weighed(rows)
    for objective in (DPO(beta=0.5), SparsePO(beta=0.5, mask="ones")):
        learner = learn(objective)
        found, *_ = learner(learner.layout.collate(marked))
        everything = learner.completions(learner.layout.collate(rows))
        weights = torch.cat([a.weights for leaf in range(2) for a in (r.answers[leaf] for r in marked)])
        value = everything.log_ratio() + (everything.kl if isinstance(objective, SparsePO) else 0)
        sums = torch.zeros(10).double().index_add(0, everything.segment, weights * value)
        assert torch.allclose(found, -torch.nn.functional.logsigmoid(0.5 * (sums[:5] - sums[5:])), atol=1e-9)


def test_an_examples_weight_multiplies_its_loss_and_counts_in_the_divisor(learn, rows):
    learner = learn(DPO(loss_type=["sigmoid", "sft"]))
    heavy = [dataclasses.replace(row, columns={"weight": 0.5 + row.line}) for row in weighed(rows)]
    plain = [dataclasses.replace(row, columns={}) for row in heavy]
    weights = torch.tensor([1.5, 2.5, 3.5, 4.5, 5.5])
    (one, one_tokens, metrics), (other, other_tokens, _) = (
        learner(learner.layout.collate(each)) for each in (heavy, plain)
    )
    assert torch.allclose(one, weights * other)
    segment = learner.layout.collate(heavy)["segment"]
    assert torch.allclose(one_tokens, weights[segment[segment < 5]] * other_tokens)
    assert float(metrics["train_loss"][1].sum()) == sum(row.weight for row in heavy)
    assert float(metrics["train_loss/tokens"][1].sum()) == pytest.approx(sum(row.token_weight for row in heavy))


def test_beta_grows_with_the_margin_as_published():
    batch = Completions(
        torch.arange(8).double(),
        torch.zeros(8).double(),
        torch.arange(8),
        8,
        columns={"margin": torch.tensor([0.0, 1.0, 3.0, 10.0])},
    )
    objective = DPO(beta=0.1, margin_scale=0.5, margin_rate=0.5)
    rewards = objective.loss(batch).metrics["rewards/chosen"]
    betas = rewards[1:] / torch.arange(1, 4)
    assert betas.tolist() == pytest.approx([0.119673, 0.138843, 0.149663], abs=1e-6)
    margin = rewards - objective.loss(batch).metrics["rewards/rejected"]
    assert torch.allclose(objective.loss(batch).per_example, -torch.nn.functional.logsigmoid(margin))
    flipped = dataclasses.replace(batch, columns={"margin": -torch.ones(4)})
    assert torch.equal(objective.loss(flipped).per_example, DPO(beta=0.1).loss(batch).per_example)


def test_what_the_settings_read_is_declared_and_refused_where_it_makes_no_sense():
    assert DPO().needs().columns == frozenset()
    assert DPO(margin_scale=0.1).needs().columns == {"margin"}
    assert KTO().needs().columns == {"label"}
    with pytest.raises(ValidationError, match="margin_scale has no meaning for aot"):
        DPO(loss_type="aot", margin_scale=1)


def test_a_weight_of_two_is_the_token_twice(learn):
    """A conversation's tokens all weighted 2 give the same mean; one weighted 2 moves it towards that token."""
    learner = learn(Supervised())
    ids, prompt = torch.tensor([20, 21, 22]), torch.tensor([5])

    def mean(weights: list[float]) -> Tensor:
        row = Example(1, prompt, (Answer(ids, torch.tensor(weights)),))
        _, per_token, metrics = learner(learner.layout.collate([row]))
        return per_token.sum() / metrics["train_loss/tokens"][1].sum()

    first, last = mean([1, 0, 0]), mean([0, 0, 1])
    assert torch.allclose(mean([2, 0, 2]), (first + last) / 2)
    assert torch.allclose(mean([2, 0, 1]), (2 * first + last) / 3)


def test_a_pair_made_of_tensors_counts_fully():
    made = pair(3, torch.tensor([1]), torch.tensor([2, 3]), torch.tensor([4]), margin=0.5)
    assert (made.weight, made.token_weight, made.tokens, made.columns) == (1.0, 2.0, 4, {"margin": 0.5})
