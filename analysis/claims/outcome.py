"""What results show of a claim: holds, does not hold, undecided, or not run; the figures that this rests on, and how intervals decide."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from analysis.stats.resampling import percentile_interval

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
RESULTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
OPPOSITE = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
ENOUGH = 0.95  # of resamples, in which a figure must have a value
ROUNDING = 1e-9


class NotRun(Exception):
    """What a claim needs is not in the folder.

    Attributes
    ----------
    missing : what, in words
    command : the command that makes it
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
    files : the files that it was read from
    """

    result: str
    estimates: tuple[Estimate, ...] = ()
    note: str = ""
    files: tuple[Path, ...] = ()


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
    results = list(results)
    return FAILS if FAILS in results else HOLDS if results and set(results) == {HOLDS} else UNDECIDED


def some(results: Iterable[str]) -> str:
    """Holds when any does, does not hold when none does, else undecided.

    Examples
    --------
    >>> some(["holds", "undecided"]), some(["undecided", "does not hold"]), some(["does not hold"])
    ('holds', 'undecided', 'does not hold')
    """
    results = list(results)
    return HOLDS if HOLDS in results else UNDECIDED if UNDECIDED in results else FAILS


def estimate(name: str, resampled: np.ndarray, confidence: float) -> Estimate:
    """The first of the values, which is of the samples as they are, with the percentile interval of the others.

    Raises
    ------
    Undecidable
        When the first, or more than a twentieth of the others, is not a number.
    """
    finite = np.isfinite(resampled[1:])
    if not np.isfinite(resampled[0]) or finite.mean() < ENOUGH:
        raise Undecidable(f"{name} cannot be computed on these samples")
    low, high = percentile_interval(resampled[1:][finite], confidence)
    return Estimate(name, float(resampled[0]), float(low), float(high))


def proportion(name: str, successes: int, number: int, confidence: float) -> Estimate:
    """A share of a number of cases, with the interval of Clopper and Pearson (1934)."""
    bounds = stats.binomtest(successes, number).proportion_ci(confidence, "exact")
    return Estimate(name, successes / number, bounds.low, bounds.high)
