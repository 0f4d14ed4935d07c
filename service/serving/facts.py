"""What is known of a servable model: the digests that its scores are attributed to."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from reward.spec import Facts
from service import registry
from service.serving.engine import EngineSettings
from service.serving.engines import Servable


def facts(servable: Servable, weights_digest: str, settings: EngineSettings) -> Facts:
    """Digests of a model's files, which never change under one id."""
    return _facts(servable.base_path, servable.adapter_path, weights_digest, _dtype(servable.base_path, settings))


@lru_cache(maxsize=256)
def _facts(base: Path, adapter: Path | None, base_digest: str, dtype: str) -> Facts:
    tokenizer = (base / "tokenizer.json").read_bytes()
    digest = base_digest
    if adapter is not None:
        digest = hashlib.sha256(f"{base_digest}\0{registry.digest(adapter)}".encode()).hexdigest()
    template = _template(base)
    return Facts(
        digest=digest,
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template is not None else None,
        dtype=dtype,
        control_tokens=_control_tokens(json.loads(tokenizer)),
    )


def _template(base: Path) -> str | None:
    file = base / "chat_template.jinja"
    if file.exists():
        return file.read_text()
    template = _json(base / "tokenizer_config.json").get("chat_template")
    return json.dumps(template, sort_keys=True) if template else None


def _control_tokens(tokenizer: dict[str, Any]) -> list[str]:
    added = tokenizer.get("added_tokens") or []
    return sorted(token["content"] for token in added if token.get("special") and len(token["content"]) > 1)


def _dtype(base: Path, settings: EngineSettings) -> str:
    if settings.dtype != "auto":
        return settings.dtype
    if not settings.gpu:
        return "float32"
    config = _json(base / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found
