"""The samples of a table that a model answers correctly: as many of each category, half with the correct option first (NOTICE).

In: a sample table, and a model whose free (greedy) answers are judged. Out: a sample table of those taken, whose `data.json` says why each
of the others was not, and beside it `accuracy.csv`: how many of each category were answered correctly.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import TYPE_CHECKING

import tyro

from data_prep.tables.command import reporting
from interventions.methods.options import SelectSamples

if TYPE_CHECKING:
    from interventions.methods.select_samples import Selection
    from interventions.models.vlm import Vlm


def select_samples(options: SelectSamples, vlm: "Vlm | None" = None) -> "Selection":
    """Let the model (or a loaded `Vlm`) answer every sample, judge, draw, and save the table in `options.out`.

    Raises
    ------
    SampleError, ModelError, StoreError, BackendError
        For options, a table, a model or folders that cannot be used, and when no answer is correct.
    """
    from interventions.methods.select_samples import select

    return select(options, vlm)


def main() -> None:
    with reporting("interventions.select_samples", ValueError):
        options = tyro.cli(SelectSamples)
        import datasets  # libraries take seconds to load: not before `--help`

        datasets.disable_progress_bars()
        made = select_samples(options)
        print(made.accuracy.to_string(index=False, na_rep=""))
        for line in made.warnings:
            print(f"warning: {line}", file=sys.stderr)
        counts = ", ".join(f"{count} {category}" for category, count in made.record["counts"].items())
        print(f"{made.record['samples']} samples ({counts}) in {options.out}")


if __name__ == "__main__":
    main()
