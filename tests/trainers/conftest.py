"""Tiny models of our own and the worker as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainers.data.examples import Example, pair
from trainers.manifest import Manifest
from trainers.rows import Row, by_leaf, scored
from trainers.spec import Assignment, JobSpec

ROOT = Path(__file__).parents[2]
#: 256 bytes and an end, with room
VOCABULARY = 260
PATIENCE = 300

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A random Llama with weights large enough that its log-probs differ from token to token."""
    torch.manual_seed(7)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per ASCII byte, `<end>` as 0: nothing merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {character: place + 1 for place, character in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", chat_template=template)


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small lose time to threads, and the workers want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="tiny_llama", scope="session")
def _tiny_llama():
    return tiny_llama


@pytest.fixture(name="byte_tokenizer", scope="session")
def _byte_tokenizer():
    return byte_tokenizer


@pytest.fixture(name="id_rows", scope="session")
def _id_rows():
    return id_rows


@pytest.fixture(name="write_rows", scope="session")
def _write_rows():
    return write_rows


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """The tiny Llama in a folder, with the byte tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def id_rows(count: int, *, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random pairs of token ids; chosen answers lean to high ids, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int, longest: int) -> list[int]:
        length = int(torch.randint(1, longest + 1, (), generator=draw))
        return torch.randint(low, high, (length,), generator=draw).tolist()

    return [{"prompt": ids(1, 128, 6), "chosen": ids(64, 128, 9), "rejected": ids(1, 64, 9)} for _ in range(count)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def pairs_path(tmp_path_factory) -> Path:
    """22 pairs: with batches of 8 the last step of an epoch is ragged."""
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", id_rows(22))


@dataclass
class Padded:
    """The oracle of both layouts: prompt and answer in rows of their own, padded on the right to the longest.

    Causal attention never looks to the right, so no mask is needed.
    """

    pad: int = 0
    name = "padded"

    def tokens(self, example: Example) -> int:
        return example.tokens + len(example.prompt)

    def collate(self, examples: Sequence[Example], least: int = 0) -> Row:
        answers = by_leaf(examples)
        prompts = [example.prompt for example in examples] * len(examples[0].answers)
        sequences = [torch.cat([prompt, a.ids]) for prompt, a in zip(prompts, answers, strict=True)]
        ids = pad_sequence(sequences, batch_first=True, padding_value=self.pad)
        firsts = [
            k * ids.shape[1] + len(s) - len(a) - 1 for k, (s, a) in enumerate(zip(sequences, answers, strict=True))
        ]
        before = [torch.arange(first, first + len(a)) for first, a in zip(firsts, answers, strict=True)]
        return {
            "input_ids": ids,
            "position_ids": torch.arange(ids.shape[1]).expand_as(ids),
            "places": (),
            **scored(examples, before),
        }

    def states(self, model: Any, row: Row, *, every_block: bool = False) -> tuple[torch.Tensor, ...]:
        out = model(input_ids=row["input_ids"], use_cache=False, output_hidden_states=every_block)
        wanted = [out.last_hidden_state, *(out.hidden_states[1:] if every_block else ())]
        return tuple(state.flatten(0, 1) for state in wanted)


@pytest.fixture(name="Padded", scope="session")
def _padded():
    return Padded


@pytest.fixture
def rows() -> list[Example]:
    """Five pairs as tensors."""
    names = ("prompt", "chosen", "rejected")
    return [pair(line, *(torch.tensor(row[n]) for n in names)) for line, row in enumerate(id_rows(5), 1)]


@dataclass
class Attempt:
    """A worker (or torchrun with its workers) in its own session, and its `out/`."""

    out: Path
    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def log(self) -> str:
        return (self.out / "log.txt").read_text()

    def manifest(self) -> Manifest:
        return Manifest.model_validate_json((self.out / "manifest.json").read_text())

    def outcome(self) -> dict[str, Any]:
        return json.loads((self.out / "outcome.json").read_text())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "events.jsonl").read_text().splitlines()]

    def metrics(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events() if event["type"] == "metrics"]

    def losses(self) -> list[float]:
        return [data["train_loss"] for data in self.metrics()]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (self.out / "events.jsonl").exists() or not any(m["step"] >= step for m in self.metrics()):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def assign(model_path, pairs_path):
    """An Assignment over the tiny model: method, its hyperparameters, anything else by name."""

    def make(
        method: str, *, peft: dict[str, Any] | None = None, serving: str | None = None, seed: int = 0, **rest: Any
    ) -> Assignment:
        given = {key: rest.pop(key) for key in list(rest) if key in Assignment.model_fields}
        small = {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_ratio": 0.0, "checkpoints": 1}
        spec = {
            "model": "tiny",
            "training_file": "file-1",
            "seed": seed,
            "method": {"type": method, method: {"hyperparameters": small | rest}},
            "peft": peft if peft and "type" in peft else {"r": 4, "lora_alpha": 8} | (peft or {}),
            "serving": serving,
        }
        places = {"base_model": "tiny", "model_path": model_path, "model_digest": "d", "training_path": pairs_path}
        return Assignment(job="ftjob-1", attempt=1, spec=JobSpec.model_validate(spec), **(places | given))

    return make


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Start an attempt with so many ranks (0: without a launcher); all are ended with the tests."""
    started: list[Attempt] = []

    def start(assignment: Assignment, *, ranks: int = 0, out: Path | None = None) -> Attempt:
        out = out or tmp_path_factory.mktemp("attempt")
        (out / "spec.json").write_text(assignment.model_dump_json())
        argv = [sys.executable, "-m"]
        if ranks:
            argv += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        argv += ["trainers.worker", str(out / "spec.json"), str(out)]
        with (out / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                argv, env=_environment(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        started.append(Attempt(out, process))
        return started[-1]

    yield start
    for attempt in started:
        attempt.kill()


def _environment() -> dict[str, str]:
    bare = {key: value for key, value in os.environ.items() if key in ("HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH")}
    return bare | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PREFSERVE_ATTEMPT_TOKEN": "the-token",
        "TORCH_EXTENSIONS_DIR": os.environ.get("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")),
    }


@pytest.fixture(scope="session")
def finish(launch):
    """Run an attempt to its end, which must be a manifest."""

    def run(assignment: Assignment, **how: Any) -> Attempt:
        attempt = launch(assignment, **how)
        status = attempt.wait()
        assert status == 0, attempt.log()
        return attempt

    return run
