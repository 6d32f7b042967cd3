"""Studies made of noise that is as unruly as real effects of heads, with heads planted in them where wanted."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from analysis.heads.head_effects import HeadEffects

MODALITY = {"sip": "image", "str": "text"}


def noise(generator: np.random.Generator, samples: int, spread: np.ndarray) -> np.ndarray:
    """Effects [sample, layer, head] that are symmetric about 0, with what the shipped models' effects on rendered scenes have otherwise.

    Those have a mean |correlation| between heads of 0.1 to 0.2 (here from factors that a sample's heads share), a kurtosis of 4 to 12
    (here from a scale for each sample), and SDs that differ by a factor of 10 and more between heads (`spread`, the scale of each head).
    """
    factors = generator.normal(size=(samples, 4)) @ generator.normal(size=(4, spread.size)) * 0.35
    scale = generator.lognormal(sigma=0.5, size=(samples, 1, 1))
    return (factors + generator.normal(size=factors.shape)).reshape(samples, *spread.shape) * scale * spread


def spreads(generator: np.random.Generator, layers: int, heads: int) -> np.ndarray:
    """The scale of each head [layer, head]."""
    return generator.lognormal(sigma=1.0, size=(layers, heads))


def study(effects: dict[tuple[str, str], np.ndarray]) -> HeadEffects:
    """A study of one model from effects [sample, layer, head] of each (corruption, task)."""
    arrays = {
        key: xr.DataArray(x, dims=("sample", "layer", "head"), coords={"layer": np.arange(x.shape[1]), "head": np.arange(x.shape[2])})
        for key, x in effects.items()
    }
    corruptions = {corruption for corruption, _ in effects}
    return HeadEffects(
        "m", "cross_attention", "correct", {c: m for c, m in MODALITY.items() if c in corruptions}, arrays, dict.fromkeys(effects, 0)
    )


def noise_study(
    generator: np.random.Generator, samples: int, layers: int, heads: int, tasks: int, corruptions: Sequence[str] = ("sip", "str")
) -> HeadEffects:
    """A study in which no head has an effect; a noisy head is noisy in every task."""
    spread = spreads(generator, layers, heads)
    return study({(c, f"d/{t}"): noise(generator, samples, spread) for c in corruptions for t in range(tasks)})


def skewed_study(
    generator: np.random.Generator, samples: int, layers: int, heads: int, tasks: int, corruptions: Sequence[str] = ("sip", "str")
) -> HeadEffects:
    """As `noise_study`, of noise with mean 0 that is skewed: lognormal factors that heads share, and lognormal noise of each head."""
    spread = spreads(generator, layers, heads)
    loading = generator.normal(size=(4, spread.size)) * 0.35

    def of_task() -> np.ndarray:
        shared, own = (generator.lognormal(size=(samples, many)) - np.exp(0.5) for many in (4, spread.size))
        return (shared @ loading + own).reshape(samples, *spread.shape) * spread

    return study({(c, f"d/{t}"): of_task() for c in corruptions for t in range(tasks)})
