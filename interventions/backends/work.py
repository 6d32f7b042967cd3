"""What is measured where: a piece of work, the batches of samples that it is given, and what a backend must offer.

A backend decides where, never what is computed. It gives back what each batch measured, in any order. That is kept sample by sample, and a
file is assembled from what was kept, in the study's order: it does not depend on what measured it, nor on how many did.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from interventions.results.store import Arrays
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

    def __call__(self, study: Study, batch: Batch) -> list[Mapping[str, Arrays]]:
        """For each sample of the batch, the arrays that go into each of its files, by the file's name."""
        ...


Measured = tuple[Batch, list[Mapping[str, Arrays]]]


class Backend(Protocol):
    """Where batches are measured."""

    def run(self, study: Study, work: Work, batches: Sequence[Batch]) -> Generator[Measured]:
        """Measure each batch once, and yield it with what `work` gave, in any order, as soon as it is measured.

        Closing the generator early (Ctrl-C, an error) ends what is under way. What goes wrong in one batch is raised when the others that
        are under way have been yielded.
        """
        ...
