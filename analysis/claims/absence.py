"""Heads that may be universal for all that these samples tell, so that none found is not taken for none there."""

import numpy as np
from scipy import stats

from analysis.claims.place import Place
from analysis.heads.head_effects import HeadEffects, flat

DEVIATIONS = 2.0  # of NOTICE's rule


def may_be(place: Place, effects: HeadEffects) -> dict[str, np.ndarray]:
    """The heads that are not clearly out of a kind, by kind: bool [layer, head].

    A head is clearly no vision head where its mean |effect| lies below the threshold of a task under the image corruption, or above that
    of every task under the text corruption, each by an interval of its own (Bonferroni over the tasks of both corruptions); text heads
    alike; clearly not multimodal where it lies below a task's threshold under either. There is clearly none where that is so of all heads:
    since the head that truly is one would have to be among them, more heads need no further correction (an intersection-union test,
    Berger 1982).
    """
    image, text = effects.corruptions
    tests = sum(len(effects.of(corruption)) for corruption in (image, text))
    level = 1 - (1 - place.folder.resampling.confidence) / 2 / tests
    (out_image, in_image), (out_text, in_text) = (_clearly(place, effects, corruption, level) for corruption in (image, text))
    return {"vision": ~(out_image | in_text), "text": ~(out_text | in_image), "multimodal": ~(out_image | out_text)}


def _clearly(place: Place, effects: HeadEffects, corruption: str, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each head lies clearly below the threshold in some task, and clearly above it in every one: bool [layer, head]."""
    below, above = [], []
    for task, values in effects.of(corruption).items():
        samples = values.sizes["sample"]
        absolute = place.weights(samples, "absence", corruption, task) @ np.abs(flat(values))
        margin = margins(absolute, samples)
        error = margin[1:].std(axis=0) * np.sqrt(samples / (samples - 1))
        reach = stats.t.ppf(level, samples - 1) * error
        shape = values.sizes["layer"], values.sizes["head"]
        below.append((margin[0] + reach < 0).reshape(shape))
        above.append((margin[0] - reach > 0).reshape(shape))
    return np.any(below, axis=0), np.all(above, axis=0)


def margins(absolute: np.ndarray, samples: int) -> np.ndarray:
    """Mean |effect| less the threshold, mean + 2 SD over heads, without the spread that so few samples alone give.

    The variance over heads of means of n samples is too large by the variance of those means' errors, which is that of the resamples times
    n / (n - 1); the variance over heads of a resample is so twice. With few samples the threshold of NOTICE's rule is therefore too high,
    and would leave out heads that it names with many.

    Parameters
    ----------
    absolute : [resample, head], of the samples as they are first
    samples : n

    Returns
    -------
    [resample, head]

    >>> few = np.array([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 4.0]])
    >>> margins(few, samples=10)[0].round(2)  # no noise: 4 lies 3 above the mean, and 2 SD are 3.46
    array([-4.46, -4.46, -4.46, -0.46])
    """
    centred = absolute - absolute.mean(axis=1, keepdims=True)
    noise = centred[1:].var(axis=0).mean() * samples / (samples - 1)
    times = np.append(1.0, np.full(len(absolute) - 1, 2.0))
    variance = (centred**2).mean(axis=1) - times * noise
    return centred - DEVIATIONS * np.sqrt(np.maximum(variance, 0))[:, None]
