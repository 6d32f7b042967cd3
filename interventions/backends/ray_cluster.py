"""Measuring on Ray's workers, on this machine or on a cluster's. Ray starts, places and restarts them; what they do is in `ray_worker`."""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interventions.backends.work import Batch, Measured, Work
from interventions.study.errors import BackendError
from interventions.study.options import RayOptions
from interventions.study.study import Study

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray.exceptions import ActorDiedError, AuthenticationError, OutOfMemoryError, RayActorError, RayTaskError
except ImportError as error:
    raise BackendError("--backend ray needs the package ray, which this environment lacks: pip install -r requirements-ray.txt") from error

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
MOST_LOSSES = 3  # workers that one batch may lose
CONNECTING = 10.0  # seconds in which a cluster must answer
PATIENCE = 60.0  # seconds without a result after which it is said what is waited for
SHARED_MEMORY = 512 * 2**20  # bytes for what passes between processes, where Ray is started here

_workers: dict[tuple[float, float], list[Any]] = {}  # by their GPUs and CPU cores; they live as long as the connection


class RayCluster:
    """Workers that hold the model, each with one batch at a time; a batch whose worker is lost goes to another."""

    def __init__(self, options: RayOptions) -> None:
        self.options = options

    def run(self, study: Study, work: Work, batches: Sequence[Batch]) -> Generator[Measured]:
        from interventions.backends.ray_worker import Task

        task = Task.of(study, work)
        connect(self.options.address)
        reference = ray.put(task)
        most, gpus, cpus = self._size(task, len(batches))
        workers = workers_of(most, gpus, cpus)
        todo = deque(batches)
        lost: Counter[Batch] = Counter()
        failed: BaseException | None = None
        idle: list[Any] = []
        under_way: dict[Any, tuple[Any, Batch | None]] = {worker.ready.remote(): (worker, None) for worker in workers}
        try:
            while (todo and not failed) or _busy(under_way):
                for result in ray.wait(list(under_way), timeout=PATIENCE)[0] or _waiting(under_way):
                    worker, batch = under_way.pop(result)
                    arrays = None
                    try:
                        arrays = ray.get(result)
                        idle.append(worker)
                    except RayTaskError as error:
                        failed = failed or _cause(error)
                        idle.append(worker)
                    except (RayActorError, OutOfMemoryError) as error:
                        if batch:
                            lost[batch] += 1
                            _say_lost(batch, lost[batch], error)
                            todo.appendleft(batch)
                        if not isinstance(error, ActorDiedError):  # Ray starts it again
                            under_way[worker.ready.remote()] = worker, None
                        elif not under_way and not idle:
                            raise BackendError(f"no Ray worker could be started: {_first_line(error)}") from error
                    while idle and todo and not failed and _busy(under_way) < most:
                        worker, following = idle.pop(), todo.popleft()
                        under_way[worker.measure.remote(reference.hex(), [reference], following)] = worker, following
                    if batch and arrays is not None:
                        yield batch, arrays
            if failed:
                raise failed
        finally:
            if _busy(under_way):
                disconnect()  # what is under way is of no use any more

    def _size(self, task: Any, batches: int) -> tuple[int, float, float]:
        """How many workers there are to be, and the GPUs and CPU cores of each.

        Raises
        ------
        BackendError
            No node of the cluster can hold one.
        """
        on_gpus = task.device == "cuda"
        gpus = float(on_gpus) if self.options.gpus_per_worker is None else self.options.gpus_per_worker
        if bool(gpus) != on_gpus:
            raise BackendError(f"--gpus-per-worker {gpus:g} does not go with a model on {task.device}: choose --device to match")
        cpus = float(task.threads)
        nodes = [(node["Resources"].get("GPU", 0), node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        room = sum(int(min(has / takes for has, takes in zip(node, (gpus, cpus), strict=True) if takes)) for node in nodes)
        if not room:
            asked = f"{gpus:g} GPUs (--gpus-per-worker) and {cpus:g} CPU cores" if gpus else f"{cpus:g} CPU cores (--threads)"
            largest = max(nodes, key=lambda node: node if gpus else node[::-1])
            raise BackendError(
                f"a Ray worker takes {asked} of one node, and the largest of the cluster's {len(nodes)} nodes has {largest[0]:g} GPUs and "
                f"{largest[1]:g} CPU cores"
            )
        if self.options.workers > room:
            log.warning("the Ray cluster has room for %d workers, not for %d", room, self.options.workers)
        return min(self.options.workers or room, room, batches), gpus, cpus


def connect(address: str | None) -> None:
    """Connect to a cluster, or start Ray on this machine; once in a program.

    Raises
    ------
    BackendError
        There is no cluster at the address, or Ray cannot be started.
    """
    if ray.is_initialized():
        return
    if address and ":" in address:
        _check_answers(address)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": SHARED_MEMORY} if address is None else {}
    try:
        ray.init(address or "local", runtime_env={"env_vars": {"PYTHONPATH": path}}, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BackendError(_no_cluster(address, error) if address else f"Ray could not be started here: {_first_line(error)}") from error


def _check_answers(address: str) -> None:
    """Raise `BackendError` where nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECTING).close()
    except (OSError, ValueError) as error:
        raise BackendError(_no_cluster(address, error)) from error


def _no_cluster(address: str, error: Exception) -> str:
    if isinstance(error.__cause__, AuthenticationError):
        return f"the Ray cluster at {address!r} asks for its token: set RAY_AUTH_MODE=token (recipes/README.md)"
    return (
        f"no Ray cluster answers at {address!r} ({_first_line(error)}): start one (recipes/README.md), or leave --address out to start Ray "
        "on this machine"
    )


def disconnect() -> None:
    """End all workers, and Ray where it was started here."""
    _workers.clear()
    ray.shutdown()


def workers_of(count: int, gpus: float, cpus: float) -> list[Any]:
    """At least so many workers, spread over the nodes, some of which may be waiting for a place; those of other sizes are ended."""
    from interventions.backends.ray_worker import Worker

    for other in [size for size in _workers if size != (gpus, cpus)]:
        for worker in _workers.pop(other):
            ray.kill(worker)
    workers = _workers.setdefault((gpus, cpus), [])
    actor = ray.remote(Worker).options(num_gpus=gpus, num_cpus=cpus, max_restarts=-1, scheduling_strategy="SPREAD")
    workers += [actor.remote() for _ in range(count - len(workers))]
    return workers


def _cause(error: RayTaskError) -> BaseException:
    """What was raised in a worker, with the worker's traceback behind it."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if cause is not error:
        cause.__cause__ = error
    return cause


def _say_lost(batch: Batch, times: int, error: Exception) -> None:
    """Say that a worker was lost; `BackendError` when the batch has lost so many that it is likely to be the reason."""
    samples = ", ".join(batch.samples[:3]) + (f" and {len(batch.samples) - 3} more" if len(batch.samples) > 3 else "")
    if times >= MOST_LOSSES:
        raise BackendError(
            f"{times} Ray workers were lost while they measured {samples}: {_first_line(error)}. If they ran out of memory, use fewer "
            "--workers on a machine, or a smaller --batch; run the same command again to go on"
        )
    log.warning("a Ray worker was lost while it measured %s; they are measured again (%s)", samples, _first_line(error))


def _busy(under_way: Mapping[Any, tuple[Any, Batch | None]]) -> int:
    """How many workers measure a batch."""
    return sum(batch is not None for _, batch in under_way.values())


def _waiting(under_way: Mapping[Any, tuple[Any, Batch | None]]) -> tuple[()]:
    """Say what is waited for."""
    busy = _busy(under_way)
    free = ray.available_resources()
    log.warning(
        "no result for %.0f s: %d batches are under way, %d workers are waited for (free in the cluster: %g GPUs, %g CPU cores)",
        *(PATIENCE, busy, len(under_way) - busy, free.get("GPU", 0), free.get("CPU", 0)),
    )
    return ()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
