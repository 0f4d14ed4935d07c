"""The process's configuration: the only reader of the environment (`PREFSERVE_*`)."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import Refusal
from service.machine import visible_gpus
from service.serving.engine import EngineSettings
from service.turns import Room


class Settings(BaseSettings):
    """How one control plane runs; every field is also `PREFSERVE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="PREFSERVE_", frozen=True, extra="forbid")

    home: Path = Field(Path("~/.prefserve"), description="Database, files, artifacts and logs.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; SQLite in the home folder if absent.")
    public_url: str | None = Field(None, description="Where workers reach this service; its own address if absent.")
    organization: str = Field("local", pattern=r"^[a-z0-9-]+$", description="The middle of `ft:` model ids.")
    cpu_slots: int = Field(1, ge=1, description="Jobs at once without a GPU; a slot is two processes there.")
    tick_seconds: float = Field(0.5, gt=0, description="Pause between two looks of the scheduler.")
    stop_grace_seconds: float = Field(60, gt=0, description="From a polite stop of a worker to a hard one.")
    lease_seconds: float = Field(
        15, gt=0, description="How long a running job waits for its service before another follows it."
    )
    infrastructure_retries: int = Field(
        2, ge=0, description="New attempts of a job whose processes died or could not be started."
    )
    tenant_slots: int | None = Field(None, ge=1, description="Slots that one tenant's jobs may hold at once.")
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest request body that is not an upload.")
    max_line_bytes: int = Field(4 * 2**20, ge=1, description="Longest line of a training file.")
    max_nesting: int = Field(64, ge=1, description="Deepest nesting of a line of a training file.")
    outgoing_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Networks of your own that webhooks may reach, as a JSON list; else public addresses only."
    )
    max_file_bytes: int = Field(512 * 2**20, ge=1, description="Largest upload.")
    trainer_python: Path = Field(Path(sys.executable), description="Interpreter of the training environment.")
    serving_python: Path = Field(
        Path(sys.prefix).parent / ".venv-serving" / "bin" / "python",
        description="Interpreter of the serving environment (vLLM).",
    )
    extensions_dir: Path = Field(
        Path(sys.prefix) / "torch_extensions", description="Where DeepSpeed's compiled parts are kept."
    )
    max_engines: int | None = Field(
        None, ge=1, description="vLLM engines at once, the least recently used stops; 1 beside a GPU, else 2."
    )
    max_lora_rank: int = Field(64, description="Largest adapter that engines take.")
    max_model_len: int | None = Field(None, ge=16, description="Context of engines; the model's own if absent.")
    engine_dtype: str = Field("auto", description="`auto` is float32 on CPU and the model's own on a GPU.")
    engine_gpu_memory: float = Field(0.4, gt=0, lt=1, description="Share of a GPU's memory that an engine takes.")
    engine_start_seconds: float = Field(300, gt=0, description="Longest start of an engine.")

    reward_endpoints: dict[str, str] = Field(
        {}, description="Reward endpoints of others that specs may name: name → URL."
    )

    @field_validator("reward_endpoints")
    @classmethod
    def _web_addresses(cls, endpoints: dict[str, str]) -> dict[str, str]:
        for name, url in endpoints.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{name} must be an http or https URL, not {url!r}")
        return endpoints

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.home / 'prefserve.db'}"

    @property
    def files(self) -> Path:
        """Uploads, one file per id."""
        return self.home / "files"

    def home_of(self, replica: int) -> Path:
        """Where a service keeps what it shares with no other: engines and the scoring process."""
        return self.home / "replicas" / str(replica) if replica else self.home

    @property
    def artifacts(self) -> Path:
        """One folder per attempt."""
        return self.home / "artifacts"

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """The NVIDIA GPUs that this process may use."""
        return visible_gpus()

    @property
    def slots(self) -> int:
        """What jobs can occupy at once: GPUs, or `cpu_slots` without one."""
        return len(self.gpus) or self.cpu_slots

    @property
    def room(self) -> Room:
        """What the queue gives out."""
        return Room(self.slots, self.tenant_slots)

    @property
    def engine(self) -> EngineSettings:
        """The part that vLLM engines are started with."""
        return EngineSettings(
            python=self.serving_python,
            home=self.home,
            gpu=bool(self.gpus),
            dtype=self.engine_dtype,
            max_model_len=self.max_model_len,
            max_lora_rank=self.max_lora_rank,
            gpu_memory_share=self.engine_gpu_memory,
            start_timeout_s=self.engine_start_seconds,
            max_engines=self.max_engines or (1 if self.gpus else 2),
        )

    def prepare(self) -> None:
        """Make the home folder, readable by its owner alone."""
        for folder in (self.home, self.files, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)

    @cached_property
    def secret(self) -> bytes:
        """Signs the tokens of attempts; made at the first start, kept in the home folder."""
        path = self.home / "secret"
        if not path.exists():
            fresh = path.with_name(f"secret.{os.getpid()}")
            fresh.touch(mode=0o600)
            fresh.write_bytes(secrets.token_bytes(32))
            with suppress(FileExistsError):  # another service made one in this moment
                os.link(fresh, path)
            fresh.unlink()
        secret = path.read_bytes()
        if len(secret) != 32:
            raise Refusal(f"{path} is damaged; remove it while no job runs, and another is made")
        return secret
