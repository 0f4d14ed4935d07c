"""How vLLM 0.32 is started: arguments and environment, with and without a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service import processes
from service.serving import limits

if TYPE_CHECKING:
    from service.serving.engine import EngineSettings

#: the base model's name inside every engine; adapters bear the name of the attempt that made them
BASE = "base"
#: what CPU engines load into vLLM, see `prefserve_lora.py` there
PLUGIN = Path(__file__).with_name("vllm_plugin")
#: tokens of one step on CPU, vLLM's own number
STEP_TOKENS = 2048


def argv(config: Mapping[str, Any], path: Path, port: int, settings: EngineSettings) -> list[str]:
    """The command line; as a module, because the CPU build's `vllm serve` does not find its own metadata."""
    tokens = limits.context(config, settings.max_model_len)
    options: dict[str, str | int | float] = {
        "model": str(path),
        "served-model-name": BASE,
        "host": "127.0.0.1",
        "port": port,
        "max-model-len": tokens,
        "max-loras": settings.max_loras,
        "max-cpu-loras": max(settings.max_cpu_loras, settings.max_loras),
        "max-lora-rank": limits.lora_rank_to_reserve(settings.max_lora_rank),
        "generation-config": "vllm",  # the caller's sampling, not what the model's folder says
        "uvicorn-log-level": "warning",
    }
    options |= _gpu(settings) if settings.gpu else _cpu(config, tokens, settings)
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    flags = ["--enable-lora", "--disable-fastapi-docs"] + ([] if settings.gpu else ["--no-enable-chunked-prefill"])
    targets = ["--lora-target-modules", *settings.lora_targets]
    return [str(settings.python), "-m", "vllm.entrypoints.openai.api_server", *named, *flags, *targets]


def env(settings: EngineSettings, key: str) -> dict[str, str]:
    """With the key that callers must bring; offline, quiet, no telemetry; on CPU as many threads as were granted,
    none of them spinning."""
    common = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    inherited = processes.environment(settings.python, "VLLM_CACHE_ROOT", "CUDA_VISIBLE_DEVICES")
    return inherited | common | ({} if settings.gpu else _cpu_env(settings))


def _gpu(settings: EngineSettings) -> dict[str, str | int | float]:
    return {"dtype": settings.dtype, "gpu-memory-utilization": settings.gpu_memory_share}


def _cpu(config: Mapping[str, Any], tokens: int, settings: EngineSettings) -> dict[str, str | int | float]:
    return {
        "dtype": "float32" if settings.dtype == "auto" else settings.dtype,
        "kv-cache-memory-bytes": settings.kv_cache_bytes or limits.kv_cache_bytes(config, tokens),
        # the model in the engine's own process: one import of torch and 0.4 GB less than with a worker
        "distributed-executor-backend": "uni",
        # A prompt cut in two rewinds its seed's generator, which torch cannot on CPU: the engine would die. Hence no
        # prompt is cut, and the longest must fit into one step.
        "max-num-batched-tokens": max(STEP_TOKENS, tokens),
    }


def _cpu_env(settings: EngineSettings) -> dict[str, str]:
    threads = settings.threads or max(1, (os.cpu_count() or 1) // 2)
    return {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(PLUGIN),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines would all take the same cores
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # what vLLM asks for before it believes `uni` on CPU
        # the first scored prompt would wait a quarter of a minute for a C++ compiler
        "TORCH_COMPILE_DISABLE": "1",
    }
