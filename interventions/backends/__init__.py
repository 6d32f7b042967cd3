"""Where samples are measured: in this process, by Ray's workers, or on a remote host.

A backend decides where, never what is computed. It is given a piece of work and batches of samples, and gives back what each batch
measured, in any order. That is kept sample by sample, and a file is assembled from what was kept, in the study's order: it does not depend
on what measured it, nor on how many did.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from tqdm import tqdm

from data_prep.tables.command import Fault

if TYPE_CHECKING:
    from interventions.results.store import Arrays, Store
    from interventions.study.options import Options
    from interventions.study.study import Study


@dataclass(frozen=True)
class Batch:
    """Samples that are measured together, whatever measures them.

    Attributes
    ----------
    samples : their ids
    files : the files, by name, that what is measured goes into
    checked : ids of the samples that are held against the plain path
    paths : where the files are, in the results folder
    """

    samples: tuple[str, ...]
    files: tuple[str, ...]
    checked: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


class Work(Protocol):
    """What is measured of a batch. It may be pickled, and run on a study read again in another process: it holds neither model nor data."""

    def __call__(self, study: "Study", batch: Batch) -> "list[Mapping[str, Arrays]]":
        """For each sample of the batch, the arrays that go into each of its files, by the file's name."""
        ...


class Backend(Protocol):
    """Where batches are measured."""

    def run(self, study: "Study", work: Work, batches: Sequence[Batch]) -> "Generator[tuple[Batch, list[Mapping[str, Arrays]]]]":
        """Measure each batch once, and yield it with what `work` gave, in any order, as soon as it is there.

        Closing the generator early (Ctrl-C, an error) ends what is under way. What goes wrong in one batch is raised when the others that
        are under way have been yielded.
        """
        ...


def choose(options: "Options") -> Backend:
    """The backend of a study's options.

    Raises
    ------
    BackendError
        What the backend needs is not there; says what to do.
    """
    if options.backend in ("local", "remote-dry-run"):
        from interventions.backends.local import Local

        return Local()
    if options.backend == "ray":
        from interventions.backends.ray_cluster import RayCluster

        return RayCluster(options.ray)
    if options.backend == "remote":
        from interventions.backends.remote import Remote

        return Remote(options.remote.jobs)
    raise BackendError(f"unknown backend {options.backend!r}; choose from local, ray, remote, remote-dry-run")


class BackendError(Fault):
    """Samples cannot be measured where they were to be: says why, and what to do. What was finished before is kept."""


def measure(study: "Study", work: Work, batches: Iterable[Batch], stores: "Mapping[str, Store]", label: str, done: int = 0) -> None:
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
        for batch, found in measured:
            for sample_id, files in zip(batch.samples, found, strict=True):
                for name, arrays in files.items():
                    stores[name].put(sample_id, arrays)
            bar.update(len(batch.samples))
