"""The processes of one attempt: how they find each other, agree, and part."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process among all of the attempt."""

    rank: int
    world: int
    device: torch.device

    @property
    def speaks(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank must call it."""
        distributed.all_reduce(values)
        return values

    def any(self, mine: bool) -> bool:
        """Whether it holds on some rank; every rank must call it."""
        return bool(self.sum(torch.tensor(int(mine), device=self.device)).item())

    def wait_for_all(self) -> None:
        """Return once every rank has got here."""
        distributed.barrier()

    def part(self) -> None:
        """End together: a process that leaves early can abort the others' exit."""
        distributed.barrier()
        distributed.destroy_process_group()


def stand_alone() -> None:
    """Without a launcher, be the only rank."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)


def join(device: torch.device) -> Ranks:
    """Meet the other ranks, through DeepSpeed, which must be the one to begin."""
    import deepspeed  # 2 s that a refused spec does not pay

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it compiled
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), device)
