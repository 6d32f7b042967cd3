"""What Ray costs beside this process, on this machine: the same study here, on one worker and on two, and after a worker is killed.

CPU seconds are those of this process and of the workers together: they depend less than seconds on what else the machine does.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import os
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import tyro

from benchmarks.timing import seconds
from interventions.backends.opening import prepare
from interventions.methods.options import HeadPatching, ModulePatching
from interventions.methods.patching import head_target, module_targets, patch_study
from interventions.results.store import Store
from interventions.study.options import Options, RayOptions
from interventions.study.study import Study

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's workers are nicer than this process by default


@dataclass
class RayOverhead:
    """Time one study in this process, on one Ray worker and on two, in turn, and how long a killed worker is missed.

    Example: python -m benchmarks.ray_overhead --samples 50
    """

    model: str = "blip-shapes"
    """Model."""
    samples: int = 50
    """Samples of each category."""
    repeats: int = 3
    """Timed runs; the median counts."""


def patch(study: Study, folder: Path) -> None:
    """Patch all heads and modules, into a new folder."""
    study.options.out = Path(tempfile.mkdtemp(dir=folder))
    patch_study(study, [head_target(study, HeadPatching()), *module_targets(study, ModulePatching())])


def cpu_seconds() -> float:
    """CPU seconds that this process and the workers have used."""
    import ray

    from interventions.backends import ray_cluster

    workers = [worker for of_size in ray_cluster._workers.values() for worker in of_size]
    return time.process_time() + sum(ray.get([worker.__ray_call__.remote(lambda _: time.process_time()) for worker in workers]))


def time_of_loss(study: Study, folder: Path) -> float:
    """Seconds between the kill of the only worker in mid-run and the next sample that is finished."""
    import ray

    from interventions.backends import ray_cluster

    (worker,) = next(iter(ray_cluster._workers.values()))[:1]
    process = ray.get(worker.__ray_call__.remote(lambda _: os.getpid()))
    kept: list[float] = []
    real = Store.put

    def put(store: Store, sample_id: str, arrays: dict) -> None:
        real(store, sample_id, arrays)
        kept.append(time.perf_counter())
        if len(kept) == 1:
            os.kill(process, signal.SIGKILL)

    Store.put = put  # type: ignore[method-assign,assignment]
    try:
        patch(study, folder)
    finally:
        Store.put = real  # type: ignore[method-assign]
    return max(later - earlier for earlier, later in pairwise(kept))


def run(options: RayOverhead) -> dict[str, float]:
    """Print and return the times."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        local = prepare(Options(model=options.model, samples=options.samples, out=folder / "data", device="cpu", verify=0))
        few = replace(local.options, samples=2)
        studies = {
            f"{workers} workers": Study(replace(local.options, backend="ray", ray=RayOptions(workers=workers)), *_rest(local))
            for workers in (1, 2)
        }
        warm = Study(replace(few, backend="ray", ray=RayOptions(workers=2)), *_rest(local))
        started = seconds(lambda: patch(warm, folder))
        times: dict[str, list[float]] = {"this process": [], **{name: [] for name in studies}}
        cpu: dict[str, list[float]] = {name: [] for name in times}
        patch(Study(few, *_rest(local)), folder)
        for _ in range(options.repeats):
            for name, study in {"this process": local, **studies}.items():
                before = cpu_seconds()
                times[name].append(seconds(lambda study=study: patch(study, folder)))  # type: ignore[misc]
                cpu[name].append(cpu_seconds() - before)
        found = {name: median(of_name) for name, of_name in times.items()}
        found["start of Ray and two workers"] = started
        found["without a result after kill -9 of the only worker"] = time_of_loss(studies["1 workers"], folder)
    count = len(local.pairs(local.options.corruption)[0])
    print(f"{options.model}, {count} samples, all heads and modules; median of {options.repeats} runs; load {os.getloadavg()[0]:.1f}")
    for name, value in found.items():
        print(f"{name:<50} {value:7.2f} s" + (f"  {value / found['this process']:.2f}" if name in times else ""))
    for name, of_name in cpu.items():
        print(f"{f'CPU, {name}':<50} {median(of_name):7.2f} s  {median(of_name) / median(cpu['this process']):.2f}")
    return found


def _rest(study: Study) -> tuple:
    return study.vlm, study.name, study.table, study.fingerprint, study.answers, study.data_folder


def main() -> None:
    run(tyro.cli(RayOverhead))


if __name__ == "__main__":
    main()
