"""Attention that knows nothing of the masks but where objects usually are, with heads of known functions planted where wanted."""

from collections.abc import Callable

import numpy as np
import xarray as xr

GRID = 6


def smooth(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise [*shape, patch] that neighbouring patches share."""
    coarse = generator.normal(size=(*shape, GRID // 2, GRID // 2))
    return np.kron(coarse, np.ones((2, 2))).reshape(*shape, -1) + 0.5 * generator.normal(size=(*shape, GRID**2))


def null_attention(
    seed: int,
    samples: int = 24,
    layers: int = 2,
    heads: int = 4,
    categories: int = 2,
    plant: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> xr.Dataset:
    """An attention file of one study.

    Objects lie in the middle. All heads share noise and have some of their own, alike in neighbouring patches, and each prefers the
    middle of every image more or less: many look at the objects far more than the mean head and an even map do, but at none for its
    own sake.

    Parameters
    ----------
    plant : changes the logits [sample, layer, head, patch], given the masks [sample, patch].
    """
    generator = np.random.default_rng(seed)
    masks = np.zeros((samples, GRID, GRID))
    for mask in masks:
        row, column = generator.integers(1, 4, 2)
        mask[row : row + 2, column : column + 2] = 1
    masks = masks.reshape(samples, -1)
    middle = masks.mean(axis=0) * np.linspace(0, 12, layers * heads).reshape(layers, heads, 1)
    logits = smooth(generator, samples, 1, 1) + smooth(generator, samples, layers, heads) + middle
    if plant:
        plant(logits, masks)
    attention = np.exp(logits)
    return xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "patch"), 0.8 * attention / attention.sum(axis=-1, keepdims=True)),
            "object_share": (("sample", "patch"), masks),
        },
        coords={"category": ("sample", np.array([f"task {i % categories}" for i in range(samples)], dtype=object))},
    )
