"""Every loss of TRL 1.16's DPOTrainer, run by TRL itself on a tiny Llama in float32: values and gradients agree."""

from __future__ import annotations

import pytest
import torch

from trainers.data.examples import pair
from trainers.likelihood import token_scores
from trainers.objectives import DPO, Completions
from trainers.policy import head_of

ROWS = [
    {"prompt": f"{n} is ", "chosen": "small" if n < 3 else "large, surely", "rejected": "no number" * (1 + n % 2)}
    for n in range(5)
]
CASES = [
    *((name, {}) for name in ("sigmoid", "hinge", "ipo", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot")),
    *((name, {}) for name in ("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm")),
    *((name, {"label_smoothing": 0.1}) for name in ("exo_pair", "robust", "aot", "aot_unpaired")),
    ("sigmoid", {"f_divergence_type": "forward_kl"}),
    ("sigmoid", {"f_divergence_type": "js_divergence"}),
    ("ipo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
    ("hinge", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}),
]


@pytest.fixture(scope="module")
def trainer(tiny_llama, byte_tokenizer, tmp_path_factory):
    """TRL's own trainer over a policy a little away from its reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny_llama(), tiny_llama()
    draw = torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    arguments = DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=len(ROWS), beta=0.1, **quiet
    )
    rows = Dataset.from_list(ROWS)
    return DPOTrainer(policy, reference, args=arguments, train_dataset=rows, processing_class=byte_tokenizer())


@pytest.fixture(scope="module")
def inputs(trainer):
    return next(iter(trainer.get_train_dataloader()))


def completions(trainer, inputs, layout) -> Completions:
    """TRL's own batch, its tokens laid end to end as this trainer does."""
    ids = [
        (row[: (mask > 0).nonzero()[0, 0]], row[mask > 0])
        for row, mask in zip(inputs["input_ids"], inputs["completion_mask"], strict=True)
    ]
    pairs = [
        pair(line, prompt, chosen, rejected)
        for line, ((prompt, chosen), (_, rejected)) in enumerate(zip(ids[: len(ROWS)], ids[len(ROWS) :], strict=True))
    ]
    batch = layout.collate(pairs)
    models = (trainer.accelerator.unwrap_model(trainer.model), trainer.ref_model)
    last, ref_last = (layout.states(m.base_model, batch)[0][batch["positions"]] for m in models)
    heads = [head_of(m) for m in models]
    logp = token_scores(heads[0], last, last.detach(), batch["targets"], kl="none", rows=999).logp
    ref_logp = token_scores(heads[1], ref_last, ref_last, batch["targets"], kl="none", rows=999).logp.detach()
    return Completions(logp, ref_logp, batch["segment"], 2 * len(ROWS))


def gradient(trainer, loss: torch.Tensor) -> torch.Tensor:
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


def check(trainer, inputs, layout, ours: DPO) -> None:
    trainer.loss_types, trainer.loss_weights = (
        list(ours.loss_type),
        list(ours.loss_weights or [1] * len(ours.loss_type)),
    )
    for name in ("beta", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef"):
        setattr(trainer, name, getattr(ours, name))
    theirs = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    expected = gradient(trainer, theirs)
    loss = ours.loss(completions(trainer, inputs, layout))
    found = loss.per_example.mean() + (0 if loss.per_token is None else loss.per_token.mean())
    assert float(found.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert float((gradient(trainer, found) - expected).norm() / expected.norm()) <= 1e-5
    assert float(expected.norm()) > 1e-4


@pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_values_and_gradients_are_trls(trainer, inputs, Padded, name, settings):  # noqa: N803 - a class
    check(trainer, inputs, Padded(), DPO(loss_type=name, beta=0.1, **settings))


def test_the_cases_hold_every_loss_that_trl_knows():
    from trainers.objectives.pairwise import EVERY

    assert {name for name, _ in CASES} == EVERY - {"cdpo", "ipo_sum", "simpo", "orpo", "cpo"}


def test_a_weighted_mixture_is_trls(trainer, inputs, Padded):  # noqa: N803 - a class
    weights = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
    check(trainer, inputs, Padded(), DPO(beta=0.1, **weights))
