"""What may become a base model."""

import json

import pytest

from service import registry
from service.db import Database
from service.errors import Invalid
from service.serving.limits import check_base


def test_the_digest_changes_with_any_file(base_folder):
    before = registry.digest(base_folder)
    assert registry.digest(base_folder) == before
    (base_folder / "tokenizer.json").write_text('{"other": 1}')
    assert registry.digest(base_folder) != before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "rng_state.pth"])
def test_a_model_with_files_that_can_carry_code_is_refused(base_folder, name):
    (base_folder / name).write_bytes(b"x")
    with pytest.raises(Invalid, match=name):
        registry.read_config(base_folder)


def test_a_config_that_names_code_is_refused(base_folder):
    config = json.loads((base_folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (base_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Invalid, match="auto_map"):
        registry.read_config(base_folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_needed_file_is_refused_by_its_name(base_folder, name):
    (base_folder / name).unlink()
    with pytest.raises(Invalid, match=name.removeprefix("model")):
        registry.read_config(base_folder)


def test_a_head_the_cpu_engine_cannot_serve_is_refused_before_any_engine_starts(base_folder):
    config = registry.read_config(base_folder)
    check_base(config, gpu=False)
    with pytest.raises(Invalid, match="head_dim"):
        check_base(config | {"head_dim": 8}, gpu=False)


def test_a_name_cannot_come_to_mean_another_model(tmp_path, base_folder):
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    with database.transaction() as db:
        registry.add_base(db, "tiny", base_folder, source="a")
        registry.add_base(db, "tiny", base_folder, source="a")
    (base_folder / "config.json").write_text("{}")
    with pytest.raises(Invalid, match="already another model"), database.transaction() as db:
        registry.add_base(db, "tiny", base_folder, source="b")
