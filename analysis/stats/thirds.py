"""Early, middle and late layers: effects by layer -> the share, and the mean size, of each third of the layers."""

import numpy as np

THIRDS = ("early", "middle", "late")
PAIRS = (("early", "middle"), ("early", "late"), ("middle", "late"))


def thirds(layers: int) -> np.ndarray:
    """The third (0, 1, 2) in which the middle of each layer lies: floor(3 (layer + 1/2) / layers).

    The early and the late third always have as many layers as each other; where 3 does not divide their number, the middle one has one
    more or one fewer (4 is 1, 2, 1; 32 is 11, 10, 11).

    >>> thirds(4), thirds(6)
    (array([0, 1, 1, 2]), array([0, 0, 1, 1, 2, 2]))
    """
    return (3 * (2 * np.arange(layers) + 1)) // (2 * layers)


def shares_of_layers(sizes: np.ndarray, there: np.ndarray, layers: int) -> np.ndarray:
    """The share of the sum over cells that each layer has: [..., cell] -> [..., layer]; NaN where the sum is 0.

    Parameters
    ----------
    sizes : [..., cell], of layer after layer
    there : bool [cell], those that count

    >>> sizes = np.array([[[3.0, 0.0, 0.5, 0.5]]])  # two layers of two cells
    >>> shares_of_layers(sizes, there=np.array([True, True, True, True]), layers=2)
    array([[[0.75, 0.25]]])
    """
    of_layer = sizes[..., there] @ np.eye(layers)[np.repeat(np.arange(layers), sizes.shape[-1] // layers)[there]]
    total = of_layer.sum(axis=-1, keepdims=True)
    return np.where(total > 0, of_layer / np.where(total > 0, total, 1), np.nan)


def size_by_third(effects: np.ndarray) -> np.ndarray:
    """Mean |effect| of a layer, summed over roles, in each third of the layers of each sample: [sample, layer, role] -> [sample, third].

    It is of a layer, so that thirds of unequal numbers of layers compare. Layers without any effect at all (NaN) are left out; NaN where
    a third has none left, or a sample has no effect.

    Examples
    --------
    >>> size_by_third(np.array([[[1.0, -1.0], [3.0, 0.0], [0.0, 5.0], [0.0, 0.5]]]))
    array([[2. , 4. , 0.5]])
    """
    there = np.isfinite(effects).any(axis=(0, 2))
    of_layer = np.nansum(np.abs(effects), axis=2)
    third = thirds(effects.shape[1])
    chosen = [there & (third == number) for number in range(len(THIRDS))]
    found = np.stack([of_layer[:, layers].mean(axis=1) if layers.any() else np.full(len(effects), np.nan) for layers in chosen], axis=1)
    found[~np.isfinite(effects).any(axis=(1, 2))] = np.nan
    return found


def pairwise(by_third: np.ndarray) -> np.ndarray:
    """The differences of `PAIRS` of thirds: [sample, third] -> [sample, pair].

    >>> pairwise(np.array([[3.0, 1.0, 0.5]]))  # of one sample; columns as in PAIRS
    array([[2. , 2.5, 0.5]])
    """
    return np.stack([by_third[:, THIRDS.index(one)] - by_third[:, THIRDS.index(other)] for one, other in PAIRS], axis=1)
