"""Engines: real vLLM ones shared by the session's tests, and quick stand-ins for what is about starting and stopping."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from service.serving.engine import EngineSettings
from service.serving.engines import Engines, Servable

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("engine_program.py")
#: with a system turn it brings the BOS itself, as many do
TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ bos_token }}{% endif %}"
    "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def quick(tmp_path: Path) -> EngineSettings:
    """Settings whose engines are stand-ins."""
    return EngineSettings(python=PROGRAM, home=tmp_path / "home", gpu=False, start_timeout_s=20)


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Servable]:
    """Make a base model folder for a stand-in."""

    def make(name: str) -> Servable:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG))
        return Servable(name, name, folder)

    return make


@pytest.fixture
def start_engines() -> Iterator[Callable[[EngineSettings], Engines]]:
    """Engines that are closed at the end of the test."""
    made: list[Engines] = []

    def start(settings: EngineSettings) -> Engines:
        made.append(Engines(settings))
        return made[-1]

    yield start
    for engines in made:
        engines.close()


@pytest.fixture(scope="session")
def serving_python() -> Path:
    """The serving environment's interpreter; without it the vLLM tests fail, they do not vanish."""
    named = os.environ.get("PREFSERVE_SERVING_PYTHON")
    python = Path(named) if named else REPOSITORY / ".venv-serving" / "bin" / "python"
    assert python.exists(), f"no serving environment at {python}: run `make setup`"
    return python


@pytest.fixture(scope="session")
def vllm_settings(serving_python: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineSettings:
    return EngineSettings(python=serving_python, home=tmp_path_factory.mktemp("vllm"), gpu=False, max_lora_rank=8)


@pytest.fixture(scope="session")
def stories(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """The story model with a chat template, whose end its tokenizer merges with what follows."""
    folder = tmp_path_factory.mktemp("models") / "stories"
    shutil.copytree(realdata / "models" / "stories260k-hd32", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return Servable("stories", "stories", folder)


@pytest.fixture(scope="session")
def weak(realdata: Path) -> Servable:
    return Servable("weak", "weak", realdata / "models" / "stories260k-qatA-weak-hd32")


@pytest.fixture(scope="session")
def policy(stories: Servable, tmp_path_factory: pytest.TempPathFactory) -> Servable:
    """A random adapter on all linear layers, large enough to be told from its base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_pretrained(stories.base_path, dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return replace(stories, id="ft:stories:local::abc", adapter="ftjob-abc-a1", adapter_path=folder)


@pytest.fixture(scope="session")
def engines(vllm_settings: EngineSettings, stories: Servable, weak: Servable) -> Iterator[Engines]:
    """Two real engines at once, started together."""
    running = Engines(vllm_settings)
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(running.endpoint, (stories, weak)))
        yield running
    finally:
        running.close()
