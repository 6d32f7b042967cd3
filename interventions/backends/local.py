"""Measuring in this process, on this machine's CPU or CUDA device."""

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from interventions.backends import Batch, Work

if TYPE_CHECKING:
    from interventions.results.store import Arrays
    from interventions.study.study import Study


class Local:
    """One batch after the other, with the study's own model."""

    def run(self, study: "Study", work: Work, batches: Sequence[Batch]) -> "Generator[tuple[Batch, list[Mapping[str, Arrays]]]]":
        for batch in batches:
            yield batch, work(study, batch)
