"""Options of backends, by themselves: a command line can show them before any library is loaded."""

from dataclasses import dataclass
from typing import Literal

Backend = Literal["local", "ray", "remote", "remote-dry-run"]


@dataclass(frozen=True)
class RayOptions:
    """Options of `--backend ray` (pip install -r requirements-ray.txt)."""

    address: str | None = None
    """A running Ray cluster: `auto` for the one this machine is part of, or host:port. Default: Ray is started on this machine for as long
    as the program runs."""
    workers: int = 0
    """Processes that each hold the model; 0 takes as many as the cluster has room for, by its GPUs or, on CPUs, its cores and --threads."""
    gpus_per_worker: float | None = None
    """GPUs of each worker, which sees no others; 0.5 where two models fit on one. Default: 1 where the model is on CUDA, else 0."""


@dataclass(frozen=True)
class RemoteOptions:
    """Options of `--backend remote`. The key is read from NDIF_API_KEY or nnsight's config."""

    host: str | None = None
    """URL of the host. Default: NDIF_HOST, or what nnsight's config says (NDIF)."""
    wait_limit: float = 3600.0
    """Seconds that one job may take, its wait in the host's queue included."""
    jobs: int = 4
    """Jobs that are under way at once, so that the wait in the queue is not paid for each."""
