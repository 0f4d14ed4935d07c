"""Digests of what is scored with: an adapter, merged weights and a base model are never taken for one another."""

from pathlib import Path

from service.db.tables import BaseModelRow, Job, Policy
from service.serving.facts import facts
from service.states import Status


def add_policies(parts, folder: Path):
    """A merged policy, and an adapter on it."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"adapter")
    with parts.database.transaction() as db:
        db.add(Job(id="ftjob-1", tenant="ada", spec={}, status=Status.SUCCEEDED, slots=1))
        db.flush()
        base = db.query(BaseModelRow).one()
        common = {"tenant": "ada", "job": "ftjob-1", "base": "tiny"}
        db.add(Policy(id="merged", kind="merged", adapter="a1", path=base.path, digest="d" * 64, **common))
        db.flush()
        on_it = {"adapter": "a2", "path": str(folder / "adapter"), "rank": 8, "merged": "merged"}
        db.add(Policy(id="on merged", **on_it, **common))
        db.add(Policy(id="on base", **(on_it | {"adapter": "a3", "merged": None}), **common))


def test_every_policy_has_a_digest_of_its_own(parts, settings, tmp_path):
    from reward.models import DensityRatio

    add_policies(parts, tmp_path)
    names = ("tiny", "merged", "on merged", "on base")
    found = {}
    for name in names:
        reward = DensityRatio(strong=name, weak=name)
        servable, digest = parts.scores._servables(reward, "ada")[0]
        found[name] = facts(servable, digest, settings.engine).digest
    assert found["merged"] == "d" * 64
    assert len(set(found.values())) == len(names)
