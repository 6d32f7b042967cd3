"""Largest means compared: the cell is chosen on one half of the samples and measured on the other, and the other way round.

The largest of many noisy means is too large, the more so the noisier they are. A cell that was chosen on the very samples on which it is
measured keeps that excess in every resample, so that an interval over samples does not cover it.
"""

import numpy as np

from analysis.claims.outcome import ENOUGH, Estimate, Undecidable
from analysis.claims.subject import Subject
from analysis.stats.resampling import percentile_interval, stream


def halves(subject: Subject, samples: int, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the samples in two halves at random, the same for the same names: files may alternate what comes first.

    Raises
    ------
    Undecidable
        With fewer than four samples.
    """
    if samples < 4:
        raise Undecidable(f"{samples} sample(s), and halves with an interval need four")
    order = stream(subject.folder.options.seed, "halves", *names).permutation(samples)
    return np.sort(order[: samples // 2]), np.sort(order[samples // 2 :])


def largest_less(subject: Subject, name: str, cells: np.ndarray, others: np.ndarray | None, *names: str) -> Estimate:
    """The largest mean of some cells, less the largest mean of others (less 0 without others), paired over samples.

    In each half, the cell that the other half chose is compared with every one of the others: the interval's lower end is the smallest of
    those differences' lower ends, so that the noise of the others is no evidence for the cell, and it lies below the difference of the
    true largest means wherever the interval with the truly largest of the others does (an intersection-union test, Berger 1982). The upper
    end is found alike, by the cell of the others that the other half chose. The estimate and both ends are means of the two halves': the
    interval is as wide as one half's, since halves that choose for each other are not independent.

    Parameters
    ----------
    cells, others : [sample, cell], of the same samples; cells without a value in nearly every resample of either half are left out
    names : of the random numbers

    Raises
    ------
    Undecidable
        With fewer than four samples, or without a cell that both halves have.
    """
    both = np.concatenate([cells, np.zeros((len(cells), 1)) if others is None else others], axis=1)
    means = _of_halves(subject, both, *names)
    measured = np.all([np.isfinite(half).mean(axis=0) >= ENOUGH for half in means], axis=0)
    is_cell = np.arange(both.shape[1]) < cells.shape[1]
    one, other = measured & is_cell, measured & ~is_cell
    if not one.any() or not other.any():
        raise Undecidable(f"{name} cannot be computed on these samples")
    confidence = subject.folder.options.confidence
    differences = []
    for choosing, held_out in (means, means[::-1]):
        best, best_other = (np.where(which, choosing[0], -np.inf).argmax() for which in (one, other))
        low = _ends(held_out[:, [best]] - held_out[:, other], confidence)[0].min()
        high = _ends(held_out[:, one] - held_out[:, [best_other]], confidence)[1].max()
        differences.append((held_out[0, best] - held_out[0, best_other], low, high))
    return Estimate(name, *np.mean(differences, axis=0).tolist())


def both_signs(cells: np.ndarray) -> np.ndarray:
    """Cells as they are and with the other sign, so that the largest is the largest in size: [sample, cell] -> [sample, 2 x cell].

    Examples
    --------
    >>> both_signs(np.array([[1.0, -3.0]])).tolist()
    [[1.0, -3.0, -1.0, 3.0]]
    """
    return np.concatenate([cells, -cells], axis=1)


def at_largest(subject: Subject, titles: tuple[str, str], cells: np.ndarray, values: np.ndarray, *names: str) -> tuple[Estimate, Estimate]:
    """Means of `values` and of `cells` at the cell whose mean is largest in size, with the sign that makes the latter positive.

    The cell and the sign are chosen on one half of the samples and both are measured on the other, then the other way round; estimates and
    ends of intervals are means of the two.

    Parameters
    ----------
    titles : of the two estimates
    cells, values : [sample, cell]

    Raises
    ------
    Undecidable
        With fewer than four samples, or where the halves do not have the cell.
    """
    means = _of_halves(subject, np.stack([values, cells], axis=1), *names)
    estimates = []
    for choosing, held_out in (means, means[::-1]):
        best = np.nan_to_num(np.abs(choosing[0, 1])).argmax()
        at_best = np.sign(choosing[0, 1, best]) * held_out[:, :, best]
        estimates.append([subject.estimate(title, at_best[:, number]) for number, title in enumerate(titles)])
    first, second = (_mean(*of_title) for of_title in zip(*estimates, strict=True))
    return first, second


def _of_halves(subject: Subject, values: np.ndarray, *names: str) -> list[np.ndarray]:
    """The resampled means of each half: [sample, ...] -> [resample, ...] twice."""
    split = zip(halves(subject, len(values), *names), "ab", strict=True)
    return [subject.means(values[half], *names, side) for half, side in split]


def _mean(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(one.name, (one.value + other.value) / 2, (one.low + other.low) / 2, (one.high + other.high) / 2)


def _ends(resampled: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of each cell [resample, cell], of the resamples (all but the first) in which it has a value."""
    drawn = resampled[1:]
    if np.isfinite(drawn).all():
        return percentile_interval(drawn, confidence)
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
