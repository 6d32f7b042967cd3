"""What a command of the analysis hands back: data, the files that it wrote, and the words that it prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Written:
    """The result of a verb that writes into a results folder.

    Attributes
    ----------
    data : what the verb's `find` gives
    paths : the files written
    words : what the command prints
    """

    data: Any
    paths: tuple[Path, ...]
    words: str
