"""Starting, sharing, losing and stopping engines; a quick stand-in plays vLLM, its processes are real."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service import processes
from service.errors import Invalid, Unavailable
from service.serving import slot

CONTROL_PLANE = """
import sys, time
from pathlib import Path
from service.serving.engine import EngineSettings
from service.serving.engines import Engines, Servable
program, home, base = map(Path, sys.argv[1:])
Engines(EngineSettings(python=program, home=home, gpu=False)).endpoint(Servable("tiny", "tiny", base))
print("up", flush=True)
time.sleep(60)
"""


def starts(servable) -> int:
    file = servable.base_path / "starts"
    return len(file.read_text()) if file.exists() else 0


def states(engines) -> dict[str, str]:
    return {status.base: status.state for status in engines.status()}


def until(condition, seconds=10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def tiny(model):
    return model("tiny")


def test_callers_who_come_together_share_one_start(quick, start_engines, tiny):
    engines = start_engines(quick)
    with ThreadPoolExecutor(8) as pool:
        endpoints = set(pool.map(engines.endpoint, [tiny] * 8))
    assert len(endpoints) == 1
    assert starts(tiny) == 1
    [status] = engines.status()
    assert (status.state, status.reason) == ("ready", None)
    assert httpx.get(f"{endpoints.pop().url}/health").is_success


def test_an_adapter_is_loaded_once_under_its_immutable_name(quick, start_engines, tiny, tmp_path):
    engines = start_engines(quick)
    policy = replace(tiny, id="ft:x", adapter="ftjob-x-a2", adapter_path=tmp_path)
    assert {engines.endpoint(policy).name for _ in range(3)} == {"ftjob-x-a2"}
    assert (tiny.base_path / "loaded").read_text() == "ftjob-x-a2\n"
    assert engines.status()[0].adapters == ("ftjob-x-a2",)
    engines.unload(policy)
    assert engines.status()[0].adapters == ()


def test_a_merged_policys_engine_is_its_own_and_ends_with_it(quick, start_engines, tiny, model, tmp_path):
    engines = start_engines(quick)
    merged = replace(model("merged"), id="ft:tiny:local::abc", base="ft:tiny:local::abc")
    on_it = replace(merged, id="ft:tiny:local::def", adapter="ftjob-def-a1", adapter_path=tmp_path)
    urls = [engines.endpoint(servable).url for servable in (tiny, merged, on_it)]
    assert urls[0] != urls[1] == urls[2]
    assert states(engines) == {"tiny": "ready", merged.id: "ready"}
    engines.unload(on_it)
    assert states(engines) == {"tiny": "ready", merged.id: "ready"}
    engines.unload(merged)
    assert states(engines) == {"tiny": "ready"}
    assert not processes.find(quick.folder(merged.id)).alive


def test_an_engine_that_is_killed_starts_again_with_its_adapter(quick, start_engines, tiny, tmp_path):
    engines = start_engines(quick)
    policy = replace(tiny, adapter="ftjob-x-a1", adapter_path=tmp_path)
    before = engines.endpoint(policy)
    pid = engines.status()[0].pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: states(engines) == {"tiny": "failed"})
    after = engines.endpoint(policy)
    assert after.url != before.url
    assert engines.status()[0].pid != pid
    assert (tiny.base_path / "loaded").read_text() == "ftjob-x-a1\n" * 2


def test_a_failed_start_says_why_and_is_not_repeated_by_every_request(quick, start_engines, tiny, monkeypatch):
    (tiny.base_path / "dies").write_text(
        "(EngineCore pid=9) INFO 11-21 05:04:51 [core.py:133] Initializing\n"
        "(EngineCore pid=9) ERROR 11-21 05:04:51 [core.py:99] ValueError: no room in /var/lib/a/cache for 3 GiB\n"
        "(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above. Failed: {}\n"
    )
    engines = start_engines(quick)
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            engines.endpoint(tiny)
        assert caught.value.message == "the engine of tiny did not start: ValueError: no room in (path) for 3 GiB"
    assert starts(tiny) == 1
    assert states(engines) == {"tiny": "failed"}
    (tiny.base_path / "dies").unlink()
    monkeypatch.setattr(slot, "FAILURE_SECONDS", 0.0)
    engines.endpoint(tiny)
    assert states(engines) == {"tiny": "ready"}


def test_a_missing_serving_environment_is_said_with_what_to_do(quick, start_engines, tiny):
    engines = start_engines(replace(quick, python=Path("/nowhere/bin/python")))
    with pytest.raises(Unavailable, match=r"serving environment is not installed: run `make setup`"):
        engines.endpoint(tiny)


def test_a_model_that_cannot_be_served_starts_no_engine(quick, start_engines, tiny):
    (tiny.base_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "head_dim": 8}')
    with pytest.raises(Invalid, match="head_dim"):
        start_engines(quick).endpoint(tiny)
    assert starts(tiny) == 0


def test_a_model_whose_folder_is_gone_is_unavailable(quick, start_engines, tiny):
    with pytest.raises(Unavailable, match="files of tiny"):
        start_engines(quick).endpoint(replace(tiny, base_path=Path("/nowhere")))


def test_an_adapter_that_the_engine_refuses_leaves_the_engine_in_use(quick, start_engines, tiny, tmp_path):
    (tiny.base_path / "refuses_adapters").touch()
    engines = start_engines(quick)
    with pytest.raises(Unavailable, match="rank 128"):
        engines.endpoint(replace(tiny, adapter="x-a1", adapter_path=tmp_path))
    assert engines.endpoint(tiny).name == "base"
    assert starts(tiny) == 1


def test_the_least_recently_used_idle_engine_makes_room(quick, start_engines, model, monkeypatch):
    monkeypatch.setattr(slot, "SETTLE_SECONDS", 0.0)
    engines = start_engines(replace(quick, max_engines=2))
    first, second, third = (model(name) for name in ("first", "second", "third"))
    for servable in (first, second, first, third):
        engines.endpoint(servable)
    assert states(engines) == {"first": "ready", "second": "stopped", "third": "ready"}
    (first.base_path / "busy").touch()
    engines.endpoint(third)
    engines.endpoint(second)
    assert states(engines) == {"first": "ready", "second": "ready", "third": "stopped"}


def test_a_start_waits_until_a_busy_engine_is_idle(quick, start_engines, model, monkeypatch):
    monkeypatch.setattr(slot, "SETTLE_SECONDS", 0.0)
    engines = start_engines(replace(quick, max_engines=1))
    one, other = model("one"), model("other")
    engines.endpoint(one)
    (one.base_path / "busy").touch()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(engines.endpoint, other)
        time.sleep(0.5)
        assert states(engines)["one"] == "ready"
        assert starts(other) == 0
        (one.base_path / "busy").unlink()
        waiting.result(timeout=10)
    assert states(engines) == {"one": "stopped", "other": "ready"}


def test_one_models_start_does_not_hold_up_another(quick, start_engines, model):
    engines = start_engines(quick)
    slow, fast = model("slow"), model("fast")
    (slow.base_path / "config.json").unlink()
    os.mkfifo(slow.base_path / "config.json")  # the start blocks on reading it
    with ThreadPoolExecutor() as pool:
        blocked = pool.submit(engines.endpoint, slow)
        until(lambda: states(engines).get("slow") == "starting")
        engines.endpoint(fast)
        assert not blocked.done()
        (slow.base_path / "config.json").write_text((fast.base_path / "config.json").read_text())
        blocked.result(timeout=10)


def test_stopping_and_closing_leave_no_process(quick, start_engines, tiny):
    engines = start_engines(quick)
    engines.endpoint(tiny)
    engines.stop("tiny")
    assert states(engines) == {"tiny": "stopped"}
    engines.endpoint(tiny)
    engines.close()
    process = processes.find(quick.folder("tiny"))
    assert process is not None
    assert not process.alive
    with pytest.raises(Unavailable, match="stopping"):
        engines.endpoint(tiny)


def test_the_engine_of_a_killed_control_plane_is_ended_by_the_next_one(quick, start_engines, tiny):
    argv = [sys.executable, "-c", CONTROL_PLANE, str(quick.python), str(quick.home), str(tiny.base_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "up\n"
        killed.kill()
    orphan = processes.find(quick.folder("tiny"))
    assert orphan is not None
    assert orphan.alive
    start_engines(quick)
    assert not orphan.alive
