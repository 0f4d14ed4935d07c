"""The reference store: what is read is what the reference says, and whatever could change it names another store."""

from __future__ import annotations

import json
import signal
from dataclasses import fields, replace

import pytest
import torch

from trainers.collate import MicroBatches
from trainers.data.examples import pair
from trainers.learner import Learner
from trainers.objectives import DPO, SparsePO
from trainers.policy import load_policy
from trainers.precompute import ingredients
from trainers.probe import choose
from trainers.reference import Ingredients, Reference, ReferenceStore, Shape, data_digest, folder_digest
from trainers.schedule import MicroBatch
from trainers.stopping import STOPPED


@pytest.fixture
def learner(assign) -> Learner:
    torch.manual_seed(0)
    policy = load_policy(assign("dpo"), torch.float32)
    made = Learner(policy, SparsePO(mask="learned_independent"), choose(policy.get_base_model()).layout)
    for parameter in (p for p in made.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_ranks_write_pair_by_pair_is_read_in_any_rows_order(rows, tmp_path, dtype):
    shape = Shape(blocks=3, width=4, dtype=dtype, mask=True)
    first, second = (ReferenceStore(tmp_path / "store", rows, shape) for _ in range(2))
    first.create()
    said = {}
    for store, pairs in ((first, [4, 0]), (second, [2]), (second, [1, 3])):
        lengths = [len(rows[p].answers[leaf]) for leaf in range(2) for p in pairs]
        states, (logp, mask) = torch.randn(3, sum(lengths), 4).to(dtype), torch.randn(2, sum(lengths))
        answers = [(p, "chosen") for p in pairs] + [(p, "rejected") for p in pairs]
        parts = (states.split(lengths, dim=1), logp.split(lengths), mask.split(lengths))
        said |= dict(zip(answers, zip(*parts, strict=True), strict=True))
        store.write(pairs, Reference(logp, states, mask))
    read = ReferenceStore(tmp_path / "store", rows, shape)
    assert sum((read.folder / f"{name}.bin").stat().st_size for name in ("states", "numbers")) == read.bytes
    for pairs in ([0, 1, 2, 3, 4], [3, 4], [1]):
        states, logp, mask = zip(*(said[p, answer] for answer in ("chosen", "rejected") for p in pairs), strict=True)
        found = read.read(pairs)
        assert torch.equal(found.states, torch.cat(states, dim=1))
        assert torch.equal(found.logp, torch.cat(logp))
        assert torch.equal(found.mask, torch.cat(mask))


def test_losses_and_gradients_from_the_store_are_the_online_ones(learner, rows, tmp_path):
    store = ReferenceStore(tmp_path, rows, Shape(3, 64, torch.float32))
    store.create()
    for place, row in enumerate(rows):  # one at a time: the rows of the training are packed otherwise
        store.write([place], learner.reference(learner.layout.collate([row])))
    results = []
    for data in (MicroBatches(rows, learner.layout), MicroBatches(rows, learner.layout, store)):
        row = data[MicroBatch((3, 0, 4), step_examples=3, step_tokens=9)]["row"]
        assert ("reference" in row) == (data.store is not None)
        learner.zero_grad()
        losses, *_ = learner(row)
        losses.sum().backward()
        results.append([losses.detach(), *(p.grad for p in learner.parameters() if p.requires_grad)])
    assert all(float((a - b).norm()) <= 1e-5 * float(b.norm()) for a, b in zip(*results, strict=True))


def test_every_ingredient_changes_the_key():
    made_of = Ingredients("m", "a", "t", "c", "d", 9, "torch.float32", "tree", 1, "mlp")
    other = {"max_length": 10, "blocks": 3}
    keys = {made_of.digest()}
    for field in fields(Ingredients):
        keys.add(replace(made_of, **{field.name: other.get(field.name, "else")}).digest())
    assert len(keys) == 1 + len(fields(Ingredients))
    assert replace(made_of).digest() == made_of.digest()


def test_each_ingredient_is_taken_from_where_it_comes(assign, rows, byte_tokenizer, learner, tmp_path):
    shape = Shape(1, 64, torch.float32)
    data = MicroBatches(rows, learner.layout)
    base = ingredients(assign("dpo"), data, byte_tokenizer(), shape)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    other_words = byte_tokenizer()
    other_words.add_tokens(["another"])
    changed = {
        "model": ingredients(assign("dpo", model_digest="e"), data, byte_tokenizer(), shape),
        "adapter": ingredients(assign("dpo", adapter_path=tmp_path), data, byte_tokenizer(), shape),
        "tokenizer": ingredients(assign("dpo"), data, other_words, shape),
        "template": ingredients(assign("dpo"), data, byte_tokenizer("{{ messages }}"), shape),
        "data": ingredients(assign("dpo"), replace(data, examples=rows[::-1]), byte_tokenizer(), shape),
        "max_length": ingredients(assign("dpo", max_length=512), data, byte_tokenizer(), shape),
        "dtype": ingredients(assign("dpo"), data, byte_tokenizer(), replace(shape, dtype=torch.bfloat16)),
        "blocks": ingredients(assign("dpo"), data, byte_tokenizer(), replace(shape, blocks=3)),
        "mask": ingredients(assign("sparsepo", mask="mapo"), data, byte_tokenizer(), shape),
    }
    for name, made_of in changed.items():
        different = {f.name for f in fields(Ingredients) if getattr(made_of, f.name) != getattr(base, f.name)}
        assert different == {name}
    assert ingredients(assign("sparsepo", beta=0.3), data, byte_tokenizer(), shape) == base


def test_digests_see_borders_and_names(rows, tmp_path):
    prompt, (chosen, rejected) = rows[0].prompt, rows[0].answers
    moved = pair(1, prompt[:-1], torch.cat([prompt[-1:], chosen.ids]), rejected.ids)
    assert data_digest([moved, *rows[1:]]) != data_digest(rows)
    (tmp_path / "a").write_bytes(b"1")
    before = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_digest(tmp_path) != before != folder_digest(None)


@pytest.mark.deepspeed
def test_a_run_from_the_store_is_the_online_run(finish, assign):
    how = {"n_epochs": 2, "micro_batch_size": 3, "l1_reward": 1e-3}
    stored = finish(assign("sparsepo", **how), ranks=2)
    online = finish(assign("sparsepo", **how, reference_store_gb=0), ranks=2)
    assert stored.losses() == pytest.approx(online.losses(), rel=1e-5)
    told = [next(e for e in attempt.events() if "reference" in e["data"]) for attempt in (stored, online)]
    assert [e["data"]["reference"] for e in told] == ["store", "online"]
    assert told[0]["message"].startswith("Reference states computed once: ")
    assert told[1]["message"].endswith("and reference_store_gb is 0")
    assert not (stored.out / "reference").exists(), "what is published needs none"
    assert not (online.out / "reference").exists()


@pytest.mark.deepspeed
def test_a_relaunch_reads_the_store_of_the_launch_before_it(launch, finish, assign):
    asked = assign("sparsepo", n_epochs=50)
    attempt = launch(asked)
    attempt.wait_for_step(2)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.wait() == STOPPED
    [folder] = (attempt.out / "reference").iterdir()
    assert json.loads((folder / "done.json").read_text())["blocks"] == 4  # the last, two blocks, the mean embedding
    again = finish(asked, out=attempt.out)
    origins = [event["message"].partition(":")[0] for event in again.events() if "reference" in event["data"]]
    assert origins == ["Reference states computed once", "Reference states found from an earlier launch"]


def test_objectives_that_read_no_blocks_store_the_last_state_alone(assign, rows):
    policy = load_policy(assign("dpo"), torch.float32)
    learner = Learner(policy, DPO(), choose(policy.get_base_model()).layout)
    assert learner.reference(learner.layout.collate(rows)).states.shape[0] == 1
