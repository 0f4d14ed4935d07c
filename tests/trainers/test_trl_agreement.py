"""Plain DPO is TRL's: the same model, adapter or none, pairs and settings give the same losses step by step."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, set_seed

from trainers.policy import load_policy

pytestmark = pytest.mark.deepspeed
ROWS = [
    {
        "prompt": f"{number} is ",
        "chosen": "small" if number < 5 else "large",
        "rejected": "no number" * (1 + number % 2),
    }
    for number in range(8)
]


@pytest.mark.parametrize(("peft", "rate", "least"), [({"r": 4}, 2e-3, 0.6), ({"type": "full"}, 2e-4, 0.3)])
def test_dpo_takes_trls_steps(finish, assign, write_rows, model_path, tmp_path, peft, rate, least):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    file = write_rows(tmp_path / "pairs.jsonl", ROWS)
    shared = {"n_epochs": 5, "batch_size": 8, "learning_rate": rate, "lr_scheduler": "constant", "beta": 0.2}
    asked = assign("dpo", training_path=file, peft=peft, **shared)
    ours = finish(asked)
    set_seed(0)
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=8,
        num_train_epochs=5,
        learning_rate=rate,
        lr_scheduler_type="constant",
        beta=0.2,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=0,
    )
    trainer = DPOTrainer(
        model=load_policy(asked, torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(model_path),
    )
    trainer.train()
    theirs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert ours.losses() == pytest.approx([entry["loss"] for entry in theirs], rel=1e-5)
    assert ours.losses()[-1] < least
    for name in ("rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert [m[name] for m in ours.metrics()] == pytest.approx([entry[name] for entry in theirs], rel=1e-4, abs=1e-6)
