"""What a data set's reader gives: `Candidate`s in a `Source`, and the options that every reader has. Loads no data set library."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.tables.images import SMALLEST_SIDE, ImageError
from data_prep.tables.sample import Excluded, SampleError


@dataclass(frozen=True)
class Candidate:
    """One sample to be.

    Attributes
    ----------
    where : file and row, or folder, that messages name
    make : gives the row as `samples.build` takes it (without `sample_id`, `dataset` and `category`, which are added), or raises
        `SampleError` or `ImageError` with the reason why the sample is left out
    """

    sample_id: str
    category: str
    where: str
    make: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes
    ----------
    name : the data set's name
    candidates : in a fixed order, ids unique
    left_out : what could not even become a candidate, each as `left_out_entry` gives it
    provenance : what else `data.json` should say (licence, files, settings)
    images : tells the image files from those of another run (`counterparts.images_hash`), where the provenance does not
    fetch : called with the candidates that are made next, to get their files; each time with no more than a limit still wants, or
        with all of them
    """

    name: str
    candidates: Sequence[Candidate]
    left_out: Sequence[dict[str, str]] = ()
    provenance: Mapping[str, Any] | None = None
    images: str = ""
    fetch: Callable[[Sequence[Candidate]], None] | None = None


@dataclass(kw_only=True)
class Preparation:
    """Options that every data set's script has."""

    out: Path = Path("data/samples")
    """Folder that receives the sample table; an older table there is replaced."""
    limit: int = 0
    """At most so many samples of each category, drawn by the seed; 0 for all."""
    seed: int = 0
    """Seed of what is drawn: counterparts, the order of the options, and which samples a limit takes."""
    longest_side: int = 0
    """Scale larger images down to so many pixels on their longer side; 0 leaves them as they are."""
    strict: bool = False
    """Stop at the first sample whose data has a fault, rather than leave it out. What is left out by design is no fault."""

    def __post_init__(self) -> None:
        if self.limit < 0 or self.seed < 0:
            raise SampleError(f"limit is {self.limit} and seed {self.seed}: neither can be negative")
        if self.longest_side and self.longest_side < SMALLEST_SIDE:
            raise SampleError(f"longest_side is {self.longest_side}: an image must have at least {SMALLEST_SIDE} pixels a side")

    def read(self) -> Source:
        """List the samples of the data set.

        Raises
        ------
        SampleError
            For a source that is missing or of another form.
        """
        raise NotImplementedError


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and some names alone, so that order and other samples do not matter."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def correct_comes_first(seed: int, sample_id: str) -> bool:
    """Whether a sample names the correct option first: a fair coin for each id."""
    return bool(rng_of(seed, "order", sample_id).integers(2))


def left_out_entry(sample_id: str, where: str, reason: SampleError | ImageError) -> dict[str, str]:
    """What `data.json` says of a sample left out: id, where and why, and that it is by design where `reason` is `Excluded`."""
    entry = {"sample": sample_id, "reason": f"{where}: {reason}" if where else str(reason)}
    return entry | ({"kind": "excluded"} if isinstance(reason, Excluded) else {})
