"""The readers of data sets, by name. A reader is one file directly in `data_prep` with one class of options marked by `reader`."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import data_prep
from data_prep.tables.candidates import Preparation
from data_prep.tables.command import reporting
from data_prep.tables.images import ImageError
from data_prep.tables.sample import SampleError

Options = TypeVar("Options")


@dataclass(frozen=True)
class Reader:
    """A data set that can be read.

    Attributes
    ----------
    name : of its file; the command is `python -m data_prep.<name>`
    title : what the data set is called
    categories : of its samples
    corrupt_image : what the semantic partner of a sample's image shows
    masks : how it is known where the thing asked about is; "-" if not
    options : of the command; a `Preparation` knows how to `read`
    """

    name: str
    title: str
    categories: str
    corrupt_image: str
    masks: str
    options: type

    @property
    def row(self) -> str:
        """The reader's row of the table in README.md."""
        return f"| {self.title} | `{self.name}` | {self.categories} | {self.corrupt_image} | {self.masks} |"


READERS: dict[str, Reader] = {}


def reader(*, title: str, categories: str, corrupt_image: str, masks: str = "-") -> Callable[[type[Options]], type[Options]]:
    """Register the options of a data set's script as its reader (see `Reader`)."""

    def register(options: type[Options]) -> type[Options]:
        name = _name(options)
        READERS[name] = Reader(name, title, categories, corrupt_image, masks, options)
        return options

    return register


def all_readers() -> dict[str, Reader]:
    """Every reader in `data_prep`, by name."""
    for module in pkgutil.iter_modules(data_prep.__path__):
        if not module.ispkg and module.name != "__main__":
            importlib.import_module(f"data_prep.{module.name}")
    return READERS


def main(options: type[Preparation]) -> None:
    """The command line of a data set's script."""
    import tyro

    run(tyro.cli(options))


def run(options: Preparation) -> None:
    """A script's body: prepare a data set's table; a fault ends it with one message, Ctrl-C with a line that says how to go on."""
    with reporting(f"data_prep.{_name(type(options))}", SampleError, ImageError):
        from data_prep.tables import preparing  # loads the data set library: not before --help

        preparing.run(options)


def _name(options: type) -> str:
    """The name of the file that defines some options, also where it runs as a script."""
    return Path(inspect.getfile(options)).stem
