"""The settings: documented, and kept to their owner."""

import stat
from pathlib import Path

import pytest

from service.errors import Refusal
from service.settings import Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_is_documented_and_nothing_else_is():
    named = {line.split("`")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")}
    assert named == {f"PREFSERVE_{name.upper()}" for name in Settings.model_fields}


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("PREFSERVE_CPU_SLOTS", "3")
    settings = Settings()
    assert (settings.home, settings.cpu_slots) == (tmp_path, 3)


def test_a_home_that_was_open_to_others_is_closed(tmp_path):
    tmp_path.chmod(0o755)
    Settings(home=tmp_path).prepare()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_the_secret_stays_the_same_and_a_damaged_one_is_refused(tmp_path):
    secret = Settings(home=tmp_path).secret
    assert Settings(home=tmp_path).secret == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    (tmp_path / "secret").write_bytes(b"")
    with pytest.raises(Refusal, match="damaged"):
        _ = Settings(home=tmp_path).secret
