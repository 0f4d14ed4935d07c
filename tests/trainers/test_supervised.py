"""SFT, DFT and ASFT: closed forms on logits, TRL's own losses, and the dense definition through a model."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from trainers.data.examples import Answer, Example
from trainers.layouts import LinearLayout, TreeLayout
from trainers.learner import Learner
from trainers.likelihood import Kl, token_scores
from trainers.objectives import ASFT, DFT, Completions, Needs, Objective, Supervised
from trainers.policy import load_policy
from trainers.probe import choose

N, VOCABULARY = 9, 11
REVERSE: Kl = "policy_to_reference"


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """The policy's and the reference's, and targets, in three answers."""
    torch.manual_seed(2)
    policy, reference = torch.randn(2, N, VOCABULARY, dtype=torch.double)
    return policy.requires_grad_(), reference, torch.randint(VOCABULARY, (N,))


def completions(objective: Objective, policy: Tensor, reference: Tensor, targets: Tensor) -> Completions:
    scores = token_scores(torch.clone, policy, reference, targets, kl=objective.needs().kl, rows=N, accuracy=True)
    segment = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2])
    return Completions(scores.logp, None, segment, 3, scores.kl, correct=scores.correct)


def gradient(objective: Objective, logits: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    [slope] = torch.autograd.grad(objective.loss(completions(objective, *logits)).per_token.sum(), logits[0])
    return slope


def test_gradients_on_the_logits_are_the_closed_forms(logits):
    policy, reference, targets = logits
    p, onehot = policy.softmax(-1).detach(), torch.nn.functional.one_hot(targets, VOCABULARY).double()
    p_y = p.gather(1, targets[:, None])
    assert torch.allclose(gradient(Supervised(), logits), p - onehot, atol=1e-12)
    assert torch.allclose(gradient(DFT(), logits), p_y * (p - onehot), atol=1e-12)
    forward = p - reference.softmax(-1)
    ratio = p.log() - reference.log_softmax(-1)
    backward = p * (ratio - (p * ratio).sum(-1, keepdim=True))
    for direction, kl in (("reference_to_policy", forward), (REVERSE, backward)):
        anchored = {"kl_weight": 0.3, "kl_direction": direction}
        assert torch.allclose(gradient(ASFT(**anchored), logits), p_y * (p - onehot) + 0.3 * kl, atol=1e-12)
        assert torch.allclose(gradient(Supervised(**anchored), logits), p - onehot + 0.3 * kl, atol=1e-12)


def test_the_gradient_of_dft_is_that_of_minus_the_probability(logits):
    policy, _, targets = logits
    [slope] = torch.autograd.grad(-policy.softmax(-1).gather(1, targets[:, None]).sum(), policy)
    assert torch.allclose(gradient(DFT(), logits), slope, atol=1e-12)


def test_asft_without_its_anchor_is_dft_bit_for_bit(logits):
    asft, dft = (o.loss(completions(o, *logits)).per_token for o in (ASFT(kl_weight=0), DFT()))
    assert torch.equal(asft, dft)
    assert torch.equal(gradient(ASFT(kl_weight=0), logits), gradient(DFT(), logits))
    assert ASFT(kl_weight=0).needs() == DFT().needs() == Needs(reference=False, accuracy=True)


def test_at_the_reference_the_anchor_is_nought_and_flat(logits):
    same = (logits[0], logits[0].detach(), logits[2])
    for direction in ("reference_to_policy", REVERSE):
        anchored = ASFT(kl_weight=0.7, kl_direction=direction)
        assert torch.allclose(gradient(anchored, same), gradient(DFT(), same), atol=1e-12)


def test_uniform_logits_give_log_v_and_its_v_th_part():
    flat = (torch.zeros(N, VOCABULARY).double().requires_grad_(), torch.zeros(N, VOCABULARY), torch.zeros(N).long())
    [sft], [dft] = (o.loss(completions(o, *flat)).per_token.detach().unique() for o in (Supervised(), DFT()))
    assert float(sft) == pytest.approx(math.log(VOCABULARY))
    assert float(dft) == pytest.approx(math.log(VOCABULARY) / VOCABULARY)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_training_one_context_ends_at_the_fixed_point(weight):
    reference = torch.tensor([[0.2, 0.5, 0.3]]).double().log()
    r, target = 0.2, torch.tensor([0])
    for objective, expected in (
        (ASFT(kl_weight=weight), (1 - weight + math.sqrt((1 - weight) ** 2 + 4 * weight * r)) / 2),
        (Supervised(kl_weight=weight), (1 + weight * r) / (1 + weight)),
    ):
        z = reference.clone().requires_grad_()
        for _ in range(20000):
            scores = token_scores(torch.clone, z, reference, target, kl="reference_to_policy", rows=1)
            batch = Completions(scores.logp, None, torch.zeros(1).long(), 1, scores.kl)
            [slope] = torch.autograd.grad(objective.loss(batch).per_token.sum(), z)
            z = (z - slope).detach().requires_grad_()
            if float(slope.abs().max()) < 1e-12:
                break
        assert float(z.softmax(-1)[0, 0]) == pytest.approx(expected, abs=1e-9)


def test_what_is_logged_is_cross_entropy_probability_kl_and_accuracy_by_the_files_weights(logits):
    policy, reference, targets = logits
    weights = torch.rand(N)
    batch = completions(ASFT(), *logits)
    weighed = Completions(batch.logp, None, batch.segment, 3, batch.kl, None, weights, batch.correct)
    metrics = {**ASFT().loss(weighed).metrics, **ASFT().diagnostics(weighed)}
    log_p, log_ref = policy.detach().log_softmax(-1), reference.log_softmax(-1)
    ce = -log_p.gather(1, targets[:, None])[:, 0]
    kl = (log_ref.exp() * (log_ref - log_p)).sum(-1)
    expected = {"ce": ce, "token_probability": (-ce).exp(), "kl": kl, "token_accuracy": log_p.argmax(-1) == targets}
    assert set(metrics) == set(expected)
    for name, values in expected.items():
        sums, counts = metrics[name]
        assert float(sums.sum() / counts.sum()) == pytest.approx(float((values * weights).sum() / weights.sum()), 1e-6)


@pytest.fixture
def conversation_rows() -> list[Example]:
    """Three answers, one with a gap in what is trained, one with fractions."""
    torch.manual_seed(3)
    weights = (None, [1.0, 0, 0, 1, 1, 0, 1], [0.5, 0.25, 1.0])
    lengths = ((4, 5), (2, 7), (1, 3))
    return [
        Example(
            line,
            torch.randint(1, 128, (prompt,)),
            (Answer(torch.randint(1, 128, (answer,)), None if w is None else torch.tensor(w)),),
            {"weight": 1.0 + line},
        )
        for line, ((prompt, answer), w) in enumerate(zip(lengths, weights, strict=True))
    ]


@pytest.mark.parametrize("layout", [TreeLayout(), LinearLayout()], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "objective", [Supervised(), DFT(), ASFT(), ASFT(kl_weight=0.3, kl_direction=REVERSE)], ids=lambda o: o.type
)
def test_losses_and_gradients_through_a_model_are_the_dense_ones(assign, conversation_rows, layout, objective):
    torch.manual_seed(0)
    policy = load_policy(assign("dpo"), torch.float32)
    learner = Learner(policy, objective, layout).double()
    if layout.name == "tree":
        assert choose(policy.get_base_model()).layout == layout
    trained = [p for p in learner.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.05 * torch.randn_like(parameter)
    per_example, per_token, metrics = learner(layout.collate(conversation_rows))
    assert not per_example.any()
    tokens = metrics["train_loss/tokens"][1].sum()
    found = per_token.sum() / tokens
    slopes = torch.autograd.grad(found, trained)
    expected = dense(learner, conversation_rows, objective)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)
    theirs = torch.autograd.grad(expected, trained)
    for ours, other in zip(slopes, theirs, strict=True):
        assert float((ours - other).norm()) <= 1e-7 * float(other.norm()) + 1e-12


def dense(learner: Learner, rows: list[Example], objective: Objective) -> Tensor:
    """Σ w l / Σ w over all tokens, from all logits, one sequence at a time."""
    base = learner.policy.get_base_model()
    before = base.config._attn_implementation
    base.set_attn_implementation("sdpa")
    reference = copy.deepcopy(learner.policy).unload().double()
    total = weight = 0
    for row in rows:
        answer = row.answers[0]
        ids, first = torch.cat([row.prompt, answer.ids])[None], len(row.prompt) - 1
        log_p = base(ids).logits[0, first:-1].log_softmax(-1)
        log_ref = reference(ids).logits[0, first:-1].log_softmax(-1).detach()
        ce = -log_p.gather(1, answer.ids[:, None])[:, 0]
        kl_weight, direction = objective.anchor()
        one, other = (log_p, log_ref) if direction == REVERSE else (log_ref, log_p)
        loss = ce * ((-ce).exp().detach() if objective.reweighted else 1)
        loss = loss + kl_weight * (one.exp() * (one - other)).sum(-1)
        w = row.columns["weight"] * (torch.ones(len(answer)) if answer.weights is None else answer.weights)
        total, weight = total + (w * loss).sum(), weight + w.sum()
    base.set_attn_implementation(before)
    return total / weight


@pytest.mark.parametrize(("objective", "name"), [(Supervised(), "nll"), (DFT(), "dft")], ids=["nll", "dft"])
def test_value_and_gradient_are_trls(tiny_llama, byte_tokenizer, tmp_path, objective, name):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = tiny_llama()
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    arguments = SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=3, loss_type=name, **quiet)
    rows = Dataset.from_list([{"prompt": f"{n} is ", "completion": "a number" * (1 + n)} for n in range(3)])
    trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=byte_tokenizer())
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(inputs), num_items_in_batch=(inputs["labels"] != -100).sum())
    expected = torch.autograd.grad(theirs, list(model.parameters()))
    ids, labels = inputs["input_ids"], inputs["labels"][:, 1:]
    logits = model(ids, attention_mask=inputs["attention_mask"]).logits[:, :-1][labels != -100]
    scores = token_scores(torch.clone, logits, None, labels[labels != -100], kl="none", rows=99)
    count = len(scores.logp)
    ours = objective.loss(Completions(scores.logp, None, torch.zeros(count).long(), 1)).per_token.mean()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    found = torch.autograd.grad(ours, list(model.parameters()))
    apart = torch.cat([(a - b).flatten() for a, b in zip(found, expected, strict=True)])
    assert float(apart.norm() / torch.cat([b.flatten() for b in expected]).norm()) <= 1e-5
