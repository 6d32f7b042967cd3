"""What a command of the analysis wrote into a results folder; and the command: its options, `write`, words on the terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from data_prep.tables.command import reporting

Data = TypeVar("Data")


@dataclass(frozen=True)
class Written(Generic[Data]):
    """What `write` of an analysis gives.

    Attributes
    ----------
    data : what its `find` gives
    paths : the tables and NetCDF files that were written, and not the figures
    words : the findings, as the command prints them
    """

    data: Data
    paths: tuple[Path, ...]
    words: str


def run_command(name: str, options_class: type, write: Callable[[Path, Any], Written[Any]]) -> None:
    """Read the options from the command line, write, and print what was found and which files hold it.

    Parameters
    ----------
    options_class : a dataclass with the field `results`; its docstring is the command's help
    """
    import tyro

    with reporting(name):
        options: Any = tyro.cli(options_class)
        written = write(options.results, options)
        print(written.words)
        print(f"wrote {', '.join(map(str, written.paths))}")
