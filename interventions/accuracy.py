"""Accuracy of a model on two-choice questions: greedy answers, exact match, by category."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Iterator

import tyro

from data_prep.tables.command import reporting
from interventions.methods.options import Accuracy


def accuracy(options: Accuracy) -> Iterator[str]:
    """Lines that say how many questions each model answers correctly, of each data set and of each of its categories."""
    from interventions.methods.accuracy import lines

    return lines(options)


def main() -> None:
    with reporting("interventions.accuracy", ValueError):
        for line in accuracy(tyro.cli(Accuracy)):
            print(line)


if __name__ == "__main__":
    main()
