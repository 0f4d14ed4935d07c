"""The DPO family's losses at the start, at published points, by their symmetries and against a dense definition."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid

from trainers.objectives import DPO, Completions
from trainers.objectives.pairwise import EVERY, PAIR_LOSSES, LossType, divergence_score

OURS = {"cdpo", "ipo_sum", "simpo", "orpo", "cpo"}
LENGTHS = (3, 1, 4, 2, 5, 1)
SEGMENT = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))


def batch_of(logp: Tensor, ref: Tensor, segment: Tensor = SEGMENT) -> Completions:
    return Completions(logp, ref, segment, int(segment.max()) + 1)


@pytest.fixture
def batch() -> Completions:
    logp, ref = -3 * torch.rand(2, len(SEGMENT), generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.01
    return batch_of(logp.requires_grad_(), ref)


def of_ratios(chosen: float, rejected: float) -> Completions:
    """One pair of one-token answers with these log-ratios."""
    return batch_of(torch.tensor([chosen, rejected]).double() - 50, torch.full((2,), -50.0).double(), torch.arange(2))


def value(batch: Completions, **settings) -> Tensor:
    """The whole loss over this batch: pairs and tokens each over their own count."""
    loss = DPO(**settings).loss(batch)
    return loss.per_example.mean() + (0 if loss.per_token is None else loss.per_token.mean())


def smoothing(name: str) -> dict[str, float]:
    return {"label_smoothing": 1e-3} if name == "exo_pair" else {}


def test_every_name_has_one_function_and_trl_has_all_but_ours():
    import re

    from trl import DPOConfig

    told = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"].split("If multiple")[0]
    theirs = set(re.findall(r"'(\w+)'", told))
    assert len(theirs) == 15
    assert set(get_args(LossType)) == theirs | OURS == EVERY
    assert set(PAIR_LOSSES) == EVERY - {"sft"}


LOG2 = math.log(2)
AT_START = {
    "sigmoid": LOG2,
    "hinge": 1.0,
    "ipo": 25.0,
    "ipo_sum": 25.0,
    "exo_pair": 2.7612,
    "nca_pair": 2 * LOG2,
    "robust": LOG2,
    "bco_pair": 2 * LOG2,
    "sppo_hard": 50.0,
    "aot": LOG2,
    "aot_unpaired": LOG2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.8466,
    "sigmoid_norm": LOG2,
    "cdpo": LOG2,
}


@pytest.mark.parametrize("name", AT_START)
def test_at_the_reference_each_loss_has_its_known_value(name, batch):
    start = batch_of(batch.logp.detach(), batch.logp.detach())
    loss = DPO(loss_type=name, **smoothing(name)).loss(start).per_example
    assert torch.allclose(loss, torch.full((3,), AT_START[name]).double(), atol=5e-5)


def dense(name: str, lw: list[float], ll: list[float], rw: list[float], rl: list[float], beta: float) -> float:
    """One pair's loss from its tokens' log-probabilities, written out with math alone."""
    pw, pl = math.fsum(lw) / len(lw), math.fsum(ll) / len(ll)
    if name == "simpo":
        return math.log1p(math.exp(-(beta * (pw - pl) - 0.5)))
    if name == "orpo":
        odds_w, odds_l = (math.exp(a) / (1 - math.exp(a)) for a in (pw, pl))
        return -beta * math.log(1 / (1 + odds_l / odds_w))
    if name == "cpo":
        return math.log1p(math.exp(-beta * (math.fsum(lw) - math.fsum(ll))))
    sw, sl = math.fsum(lw) - math.fsum(rw), math.fsum(ll) - math.fsum(rl)
    if name == "ipo_sum":
        return (sw - sl - 1 / (2 * beta)) ** 2
    assert name == "cdpo"
    return 0.9 * math.log1p(math.exp(-beta * (sw - sl))) + 0.1 * math.log1p(math.exp(beta * (sw - sl)))


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_losses_that_trl_lacks_are_their_definitions(name, batch):
    settings = {"label_smoothing": 0.1} if name == "cdpo" else {}
    found = DPO(loss_type=name, beta=0.7, **settings).loss(batch)
    answers = [[v[batch.segment == c].tolist() for c in range(6)] for v in (batch.logp.detach(), batch.ref_logp)]
    expected = [dense(name, answers[0][p], answers[0][p + 3], answers[1][p], answers[1][p + 3], 0.7) for p in range(3)]
    assert found.per_example.tolist() == pytest.approx(expected, rel=1e-12)
    brought = found.per_token
    if name in ("orpo", "cpo"):  # the papers' own likelihood term comes along
        assert torch.equal(brought, -batch.logp[SEGMENT < 3])
    else:
        assert brought is None


@pytest.mark.parametrize("name", sorted(EVERY - {"sft"}))
def test_gradients_are_finite_differences(name, batch):
    objective = DPO(loss_type=name, beta=0.4, **smoothing(name))
    logp = batch.logp.detach().clone().requires_grad_()
    objective.loss(batch_of(logp, batch.ref_logp)).per_example.sum().backward()
    for place in range(len(SEGMENT)):
        step = torch.zeros_like(batch.ref_logp)
        step[place] = 1e-6
        high, low = (
            objective.loss(batch_of(logp.detach() + s, batch.ref_logp)).per_example.sum() for s in (step, -step)
        )
        assert float(high - low) / 2e-6 == pytest.approx(float(logp.grad[place]), rel=1e-5, abs=1e-7)


def test_robust_without_noise_is_sigmoid_and_over_flipped_labels_the_clean_loss():
    there, back = of_ratios(3, -1), of_ratios(-1, 3)
    assert torch.equal(value(there, loss_type="robust"), value(there, loss_type="sigmoid"))
    noisy = [value(b, loss_type="robust", label_smoothing=0.2) for b in (there, back)]
    assert float(0.8 * noisy[0] + 0.2 * noisy[1]) == pytest.approx(float(value(there)), rel=1e-12)


def test_a_lone_pair_sorts_to_itself():
    pair = of_ratios(3, -1)
    for name in ("aot", "aot_unpaired"):
        found = value(pair, loss_type=name, label_smoothing=0.2)
        assert float(found) == pytest.approx(float(value(pair, loss_type="cdpo", label_smoothing=0.2)), rel=1e-12)


def test_aot_sorts_margins_and_says_that_it_couples_pairs(batch):
    assert DPO(loss_type=["sft", "aot"]).batch_coupled()
    assert not DPO(loss_type=["sft", "sigmoid"]).batch_coupled()
    policy, ref = (batch.total(v).detach().chunk(2) for v in (batch.logp, batch.ref_logp))
    pairs = zip(sorted((policy[0] - policy[1]).tolist()), sorted((ref[0] - ref[1]).tolist()), strict=True)
    expected = sum(math.log1p(math.exp(-0.1 * (p - r))) for p, r in pairs) / 3
    assert float(value(batch, loss_type="aot").detach()) == pytest.approx(expected, rel=1e-12)


def test_divergences_are_their_derivatives_at_the_ratio():
    ratios = torch.linspace(-3, 3, 7, dtype=torch.float64)
    t = ratios.exp()
    assert torch.equal(divergence_score("reverse_kl", ratios, 0.5), ratios)
    assert torch.allclose(divergence_score("forward_kl", ratios, 0.5), 1 - 1 / t)
    assert torch.allclose(divergence_score("js_divergence", ratios, 0.5), (2 * t / (t + 1)).log())
    assert bool((divergence_score("js_divergence", 50 * ratios, 0.5) <= LOG2).all())
    assert torch.allclose(divergence_score("alpha_divergence", ratios, 0.5), (t**-0.5 - 1) / -0.5)
    assert torch.equal(divergence_score("alpha_divergence", ratios, 1.0), ratios)
    assert torch.allclose(divergence_score("alpha_divergence", ratios, 1 + 1e-5), ratios, atol=1e-4)
    assert float(divergence_score("alpha_divergence", torch.tensor(1e4), 2.0)) == pytest.approx(math.exp(80), rel=1e-5)


def test_a_divergence_changes_the_score_but_not_the_logged_reward(batch):
    plain, other = (DPO(beta=0.3, f_divergence_type=kind).loss(batch) for kind in ("reverse_kl", "forward_kl"))
    sums = batch.total(batch.log_ratio())
    scores = 0.3 * (1 - (-sums).exp())
    assert torch.allclose(other.per_example, -logsigmoid(scores[:3] - scores[3:]))
    assert torch.equal(other.metrics["rewards/chosen"], plain.metrics["rewards/chosen"])


@pytest.mark.parametrize("name", ["ipo", "sigmoid_norm"])
def test_saying_every_token_twice_leaves_the_normalised_losses(name, batch):
    twice = batch_of(batch.logp.repeat(2), batch.ref_logp.repeat(2), SEGMENT.repeat(2))
    assert torch.allclose(DPO(loss_type=name).loss(twice).per_example, DPO(loss_type=name).loss(batch).per_example)
    changed = DPO(loss_type="ipo_sum").loss(twice).per_example - DPO(loss_type="ipo_sum").loss(batch).per_example
    assert float(changed.detach().abs().min()) > 1e-3


def test_length_normalisation_divides_every_answers_sums(batch):
    normalised = DPO(length_normalized=True, beta=0.7).loss(batch).per_example
    assert torch.allclose(normalised, DPO(loss_type="sigmoid_norm", beta=0.7).loss(batch).per_example)
    ratios = batch.total(batch.log_ratio()) / torch.tensor(LENGTHS)
    hinge = (1 - 0.7 * (ratios[:3] - ratios[3:])).relu()
    assert torch.allclose(DPO(loss_type="hinge", length_normalized=True, beta=0.7).loss(batch).per_example, hinge)


def test_minima_are_where_the_papers_put_them():
    assert float(value(of_ratios(5, -5), loss_type="sppo_hard")) == pytest.approx(0, abs=1e-20)
    assert float(value(of_ratios(4, -1), loss_type="ipo_sum")) == pytest.approx(0, abs=1e-20)
    assert 0 < float(value(of_ratios(90, -90), loss_type="apo_zero")) < 1e-3
    assert float(value(of_ratios(-90, 90), loss_type="apo_zero")) == pytest.approx(2, abs=1e-3)


def test_simpo_without_a_margin_is_sigmoid_norm_under_a_uniform_reference(batch):
    uniform = batch_of(batch.logp, torch.full_like(batch.ref_logp, -5.0))
    simpo = DPO(loss_type="simpo", simpo_gamma=0, beta=2).loss(batch).per_example
    assert torch.allclose(simpo, DPO(loss_type="sigmoid_norm", beta=2).loss(uniform).per_example)


def test_dpo_without_a_reference_is_cpo_without_its_likelihood_term(batch):
    free = DPO(gamma=0, beta=0.3).loss(batch).per_example
    assert torch.allclose(free, DPO(loss_type="cpo", cpo_alpha=0, beta=0.3).loss(batch).per_example)
    assert DPO(loss_type="cpo", cpo_alpha=0).loss(batch).per_token is None


def test_gamma_weighs_the_references_opinion(batch):
    policy, ref = (batch.total(v).chunk(2) for v in (batch.logp, batch.ref_logp))
    c = ref[1] - ref[0]
    for gamma in (0.25, 1.0, 2.0):
        expected = -logsigmoid(0.3 * (policy[0] - policy[1] + gamma * c))
        assert torch.allclose(DPO(gamma=gamma, beta=0.3).loss(batch).per_example, expected, atol=1e-12)


def test_flex_dpo_has_its_published_point_and_with_equal_betas_is_dpo(batch):
    logp = torch.tensor([-51.0, -56.0]).double().requires_grad_()
    pair = batch_of(logp, torch.full((2,), -50.0).double(), torch.arange(2))
    loss = DPO(beta=0.1, beta_rejected=0.08).loss(pair)
    loss.per_example.sum().backward()
    assert float(loss.per_example) == pytest.approx(0.521090, abs=1e-6)
    assert logp.grad.tolist() == pytest.approx([-0.0406127, 0.0324902], abs=1e-7)
    assert torch.equal(DPO(beta_rejected=0.1).loss(batch).per_example, DPO().loss(batch).per_example)


def test_a_mixture_adds_its_terms_each_over_its_own_units(batch):
    mixed = DPO(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.5]).loss(batch)
    parts = [DPO(loss_type=name).loss(batch).per_example for name in ("sigmoid", "bco_pair")]
    assert torch.allclose(mixed.per_example, 0.8 * parts[0] + 0.2 * parts[1])
    assert torch.equal(mixed.per_token, -1.5 * batch.logp[SEGMENT < 3])
    assert torch.equal(mixed.metrics["loss/sft"], -batch.logp[SEGMENT < 3].detach())
    assert torch.equal(mixed.metrics["loss/bco_pair"], parts[1].detach())
    alone = DPO(loss_type="sft").loss(batch)
    assert torch.equal(alone.per_example, torch.zeros(3).double())
    assert not any(name.startswith("loss/") for name in alone.metrics)


def test_a_certain_answer_has_finite_odds():
    logp = torch.zeros(2).requires_grad_()
    loss = DPO(loss_type="orpo").loss(batch_of(logp, torch.zeros(2), torch.arange(2))).per_example
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    assert bool(logp.grad.isfinite().all())


def test_one_name_is_a_list_of_one_and_the_spec_keeps_the_list():
    assert DPO(loss_type="hinge") == DPO(loss_type=["hinge"])
    assert DPO(loss_type="hinge", loss_weights=2).model_dump(mode="json")["loss_type"] == ["hinge"]
    assert DPO(loss_type="auto").loss_type == ("sigmoid",)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss_type": "kto_pair"}, "Input should be 'sigmoid'"),
        ({"loss_type": []}, "at least 1 item"),
        ({"loss_type": ["sigmoid", "sigmoid"]}, "names a loss twice"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "has 1 values for 2 losses"),
        ({"loss_type": "exo_pair"}, "exo_pair needs label_smoothing above 0"),
        ({"label_smoothing": 0.1}, "label_smoothing is read by none of the losses; aot"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        (
            {"loss_type": "apo_zero", "f_divergence_type": "js_divergence"},
            "f_divergence_type has no meaning for apo_zero",
        ),
        ({"loss_type": "ipo", "length_normalized": True}, "length_normalized has no meaning for ipo"),
        ({"loss_type": ["sigmoid", "ipo"], "beta_rejected": 0.2}, "beta_rejected has no meaning for ipo"),
        ({"loss_type": "simpo", "gamma": 0.5}, "gamma has no meaning for simpo"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        DPO(**settings)
