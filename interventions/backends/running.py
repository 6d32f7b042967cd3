"""Batches of a study's samples are measured by the backend of its options, and kept."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from tqdm import tqdm

from interventions.backends.local import Local
from interventions.backends.work import Backend, Batch, Work
from interventions.results.store import Store
from interventions.study.errors import BackendError
from interventions.study.options import Options
from interventions.study.study import Study


def choose(options: Options) -> Backend:
    """The backend of a study's options.

    Raises
    ------
    BackendError
        A library or a host that the backend needs is missing; says what to do.
    """
    if options.backend in ("local", "remote-dry-run"):
        return Local()
    if options.backend == "ray":
        from interventions.backends.ray_cluster import RayCluster

        return RayCluster(options.ray)
    if options.backend == "remote":
        from interventions.backends.remote import Remote

        return Remote(options.remote.jobs)
    raise BackendError(f"unknown backend {options.backend!r}; choose from local, ray, remote, remote-dry-run")


def run_batches(study: Study, work: Work, batches: Iterable[Batch], stores: Mapping[str, Store], label: str, done: int = 0) -> None:
    """Measure batches where the study's options say, and keep each sample as soon as its batch is finished.

    Parameters
    ----------
    batches : those that are not finished yet
    stores : where the arrays are kept, by the names of their files
    label : what the progress bar says
    done : samples that were finished before
    """
    paths = {name: str(store.path.relative_to(study.options.out)) for name, store in stores.items()}
    todo = [replace(batch, paths=tuple(paths[name] for name in batch.files)) for batch in batches]
    if not todo:
        return
    total = done + sum(len(batch.samples) for batch in todo)
    with (
        tqdm(total=total, initial=done, desc=label, unit="sample") as bar,
        closing(choose(study.options).run(study, work, todo)) as measured,
    ):
        for batch, files_of_samples in measured:
            for sample_id, files in zip(batch.samples, files_of_samples, strict=True):
                for name, arrays in files.items():
                    stores[name].put(sample_id, arrays)
            bar.update(len(batch.samples))
