"""Measuring in this process, on this machine's CPU or CUDA device."""

from collections.abc import Generator, Sequence

from interventions.backends.work import Batch, Measured, Work
from interventions.study.study import Study


class Local:
    """One batch after the other, with the study's own model."""

    def run(self, study: Study, work: Work, batches: Sequence[Batch]) -> Generator[Measured]:
        for batch in batches:
            yield batch, work(study, batch)
