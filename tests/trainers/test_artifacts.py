"""The manifest's figures and its index of files; which checkpoints count."""

from __future__ import annotations

import hashlib

import pytest

from trainers import checkpoints
from trainers.artifacts import closing
from trainers.manifest import stored_files


def test_final_metrics_are_means_over_the_last_tenth_of_the_log():
    history = [{"step": n, "train_loss": float(n), "learning_rate": 1.0} for n in range(1, 31)]
    history[-1]["kl/chosen"] = 7.0
    assert closing(history) == {"initial_loss": 1.0, "train_loss": 29.0, "kl/chosen": 7.0}


def test_files_are_indexed_by_size_and_digest(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"hello")
    (tmp_path / "y").write_bytes(b"")
    (tmp_path / "unlisted").write_bytes(b"")
    index = stored_files(tmp_path, [tmp_path / "a", tmp_path / "y", tmp_path / "absent"])
    assert {name: file.bytes for name, file in index.items()} == {"a/b/x": 5, "y": 0}
    assert index["a/b/x"].sha256 == hashlib.sha256(b"hello").hexdigest()


@pytest.mark.parametrize(
    ("steps", "count", "expected"), [(10, 2, {5, 10}), (1, 3, {1}), (7, 3, {2, 5, 7}), (4, 9, {1, 2, 3, 4})]
)
def test_checkpoints_are_spread_evenly_and_the_last_is_the_end(steps, count, expected):
    planned = checkpoints.planned(steps, count)
    assert max(planned) == steps
    assert planned == expected


def test_a_checkpoint_cut_short_does_not_count(tmp_path):
    first = checkpoints.complete(checkpoints.begin(tmp_path, 4), {"train_loss": 0.5})
    checkpoints.complete(checkpoints.begin(tmp_path, 12), {"train_loss": 0.4})
    checkpoints.begin(tmp_path, 20)
    found = checkpoints.saved(tmp_path)
    assert [c.step_number for c in found] == [4, 12]
    assert found[0] == first
    assert (tmp_path / found[1].path).is_dir()
