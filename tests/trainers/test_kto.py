"""KTO: TRL's own loss and gradient, values at the start, and what couples its examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.layouts import LinearLayout
from trainers.learner import Learner
from trainers.objectives import KTO, Completions
from trainers.policy import load_policy
from trainers.probe import choose

ROWS = [
    {"prompt": f"{n} is ", "completion": "small" if n % 2 else "large, surely", "label": n in (0, 1, 3)}
    for n in range(5)
]


def batch(ratios: Tensor, labels: Tensor) -> Completions:
    """One token per completion; own answers first, mismatched ones after them."""
    count = len(ratios)
    return Completions(ratios, torch.zeros(count), torch.arange(count), count, columns={"label": labels})


def test_at_the_reference_each_example_costs_half_its_weight():
    given = batch(torch.zeros(6), torch.tensor([1.0, 0.0, 1.0]))
    for kind in ("kto", "apo_zero_unpaired"):
        objective = KTO(loss_type=kind, desirable_weight=2, undesirable_weight=3)
        assert objective.loss(given).per_example.tolist() == [1.0, 1.5, 1.0]


def test_the_mismatched_answers_set_the_point_of_comparison_and_get_no_gradient():
    ratios = torch.tensor([0.3, -0.2, 1.0, 0.5, 0.7, -0.3], requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 1.0])
    loss = KTO(beta=0.4).loss(batch(ratios, labels)).per_example
    gain = 0.4 * (ratios[:3] - 0.3) * torch.tensor([1, -1, 1])
    assert torch.allclose(loss, 1 - gain.sigmoid())
    [slope] = torch.autograd.grad(loss.sum(), ratios)
    assert (slope[:3] != 0).all()
    assert (slope[3:] == 0).all()
    below = batch(torch.tensor([0.3, -0.2, 1.0, -0.5, -0.7, -0.3]), labels)
    assert torch.allclose(KTO(beta=0.4).loss(below).per_example[0], 1 - torch.tensor(0.12).sigmoid())


def test_rewards_are_logged_for_each_label_apart():
    given = batch(torch.tensor([1.0, -3.0, 2.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 1.0]))
    metrics = KTO(beta=0.5).loss(given).metrics
    means = {side: metrics[f"rewards/{side}"] for side in ("chosen", "rejected")}
    assert {side: float(sums.sum() / counts.sum()) for side, (sums, counts) in means.items()} == {
        "chosen": 0.75,
        "rejected": -1.5,
    }


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
def test_value_and_gradient_are_trls(tiny_llama, byte_tokenizer, tmp_path, kind):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    policy, reference = tiny_llama(), tiny_llama()
    draw = torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    arguments = KTOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=5, beta=0.3, loss_type=kind, **weights, **quiet
    )
    trainer = KTOTrainer(
        policy, reference, args=arguments, train_dataset=Dataset.from_list(ROWS), processing_class=byte_tokenizer()
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    expected = torch.autograd.grad(theirs, list(policy.parameters()))

    names = ("", "KL_") if kind == "kto" else ("", "")
    ratios = [log_ratio(policy, reference, inputs, name) for name in names]
    objective = KTO(beta=0.3, loss_type=kind, **weights)
    ours = objective.loss(batch(torch.cat(ratios), torch.as_tensor(inputs["label"]).float())).per_example.mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    found = torch.autograd.grad(ours, list(policy.parameters()))
    apart, size = (
        torch.cat([x.flatten() for x in v]) for v in ([a - b for a, b in zip(found, expected, strict=True)], expected)
    )
    assert float(apart.norm() / size.norm()) <= 1e-5


def log_ratio(policy, reference, inputs, name: str) -> Tensor:
    ids, mask = inputs[f"{name}input_ids"], inputs[f"{name}completion_mask"][:, 1:]
    both = []
    for model in (policy, reference):
        log_p = model(ids, attention_mask=inputs[f"{name}attention_mask"]).logits[:, :-1].log_softmax(-1)
        both.append((log_p.gather(2, ids[:, 1:, None])[..., 0] * mask).sum(-1))
    return both[0] - both[1].detach()


def test_rows_carry_the_labels_and_both_leaves(assign, rows):
    from dataclasses import replace

    labelled = [replace(row, columns={"label": float(row.line % 2)}) for row in rows]
    policy = load_policy(assign("dpo"), torch.float32)
    learner = Learner(policy, KTO(), choose(policy.get_base_model()).layout)
    loss, per_token, _ = learner(learner.layout.collate(labelled))
    assert loss.tolist() == pytest.approx([0.5] * 5)
    assert len(per_token) == 0
    assert LinearLayout().collate(labelled)["columns"]["label"].tolist() == [1, 0, 1, 0, 1]
