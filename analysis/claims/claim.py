"""A claim of a paper, and what results show of it: holds, does not hold, undecided, or not run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.stats.resampling import percentile_interval

if TYPE_CHECKING:
    from analysis.claims.place import Place

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
RESULTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
ENCODER, DECODER, ANY = "encoder", "decoder", "any"  # BLIP-like: the answer is read elsewhere than at the prompt's end; LLaVA-like
BLIP = ("blip-vqa-base",)
LLAVA = ("llava-1.5-7b", "llava-1.5-7b-hf")
PREPARED = ("svo_probes", "mit_states", "fer2013", "coco_qa", "vqa_v2", "clevr", "shapeworld", "iconqa")
FALLBACK_DATA = "vqa_v2"
NOTICE_DATA = ("svo_probes", "mit_states", "fer2013")


class NotRun(Exception):
    """What a claim needs is not in the folder.

    Attributes
    ----------
    missing : what, in words
    command : what makes it
    """

    def __init__(self, missing: str, command: str) -> None:
        super().__init__(missing)
        self.missing, self.command = missing, command


class Undecidable(Exception):
    """What is in the folder cannot decide the claim; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval over samples."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Finding:
    """What results show of a claim.

    Attributes
    ----------
    result : one of `RESULTS`
    estimates : the figures that it rests on, the most telling first
    note : what else is to be said
    files : what it was read from
    """

    result: str
    estimates: tuple[Estimate, ...] = ()
    note: str = ""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes
    ----------
    id : its name here
    paper, source : the paper, and where in it
    says : what it says
    test : the statistic that is computed, and the rule by which it decides
    kind : ENCODER, DECODER or ANY: the models that it can be tested on
    models, data : those of the paper, by their names in a results folder
    judge : finds the outcome for one model, and one data set where `each_dataset`; raises `NotRun` or `Undecidable`
    each_dataset : tested on each data set apart, else on all of the model's together
    papers_model_only : it names heads or figures of the paper's model, so no other is tested
    """

    id: str
    paper: str
    source: str
    says: str
    test: str
    kind: str
    models: tuple[str, ...]
    judge: "Callable[[Place], Finding]"
    data: tuple[str, ...] = NOTICE_DATA
    each_dataset: bool = False
    papers_model_only: bool = False

    @property
    def data_to_run(self) -> str:
        """The first of the paper's data sets that data_prep prepares, else `FALLBACK_DATA`."""
        return next((name for name in self.data if name in PREPARED), FALLBACK_DATA)


def beyond(estimate: Estimate, value: float = 0.0) -> str:
    """Whether a figure is larger than a value: holds when its interval lies wholly above, does not hold when wholly below.

    Examples
    --------
    >>> [beyond(Estimate("share", value, value - 0.1, value + 0.1), 0.5) for value in (0.7, 0.55, 0.3)]
    ['holds', 'undecided', 'does not hold']
    """
    return HOLDS if estimate.low > value else FAILS if estimate.high < value else UNDECIDED


def every(results: Iterable[str]) -> str:
    """Holds when all do, does not hold when any does not, else undecided.

    Examples
    --------
    >>> every(["holds", "undecided"]), every(["holds", "does not hold"]), every([])
    ('undecided', 'does not hold', 'undecided')
    """
    found = list(results)
    return FAILS if FAILS in found else HOLDS if found and set(found) == {HOLDS} else UNDECIDED


def estimate(name: str, resampled: np.ndarray, confidence: float) -> Estimate:
    """The first of the values, which is of the samples as they are, with the percentile interval of the others.

    Raises
    ------
    Undecidable
        When the first, or more than a twentieth of the others, is not a number.
    """
    finite = np.isfinite(resampled[1:])
    if not np.isfinite(resampled[0]) or finite.mean() < 0.95:
        raise Undecidable(f"{name} cannot be computed on these samples")
    low, high = percentile_interval(resampled[1:][finite], confidence)
    return Estimate(name, float(resampled[0]), float(low), float(high))
