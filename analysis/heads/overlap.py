"""Do tasks and corruptions share more heads than chance would give? Sets of heads -> what is shared, what chance gives, p-values.

Sets have signs, or none (NOTICE's rule): a head is shared only by sets that hold it with the same sign.

Chance is either any heads of the model, or other heads of the same layers: heads that matter lie in some layers in any task, so
sets overlap more than at random even if no single head is shared on purpose. The second asks for more than that. Under either, a set has
as many positive and as many negative heads as it has.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCK = 4_000_000  # bytes of shuffled sets at a time


@dataclass(frozen=True)
class Overlap:
    """How many heads sets share, beside chance.

    Attributes
    ----------
    shared : heads that are in enough of the sets, with the same sign
    expected, p : mean of that number, and the chance of so many or more, were each set as many heads of the model at random
    expected_in_layers, p_in_layers : the same, were each set as many heads of each layer at random
    """

    shared: int
    expected: float
    p: float
    expected_in_layers: float
    p_in_layers: float


def pair_overlap(one: np.ndarray, other: np.ndarray, permutations: int, generator: np.random.Generator) -> Overlap:
    """The heads that two sets share.

    Over the model p = P(X >= shared) is exact (see `shared_by_chance`): without signs, Fisher's exact test, one-sided. Within layers it is
    found by permutation.

    Parameters
    ----------
    one, other : [layer, head], 0 where a head is not in the set, else its sign (or True)

    >>> one, other = np.zeros((2, 4), dtype=bool), np.zeros((2, 4), dtype=bool)
    >>> one[0, :2] = other[0, :2] = True
    >>> found = pair_overlap(one, other, permutations=999, generator=np.random.default_rng(0))
    >>> found.shared, found.expected, round(found.p, 3)  # p = 1 / C(8, 2)
    (2, 0.5, 0.036)
    >>> round(found.expected_in_layers, 1), round(found.p_in_layers, 1)  # 2 of 4 heads of one layer: 1 by chance, both in 1 of 6
    (1.0, 0.2)
    >>> signed = pair_overlap(one.astype(int), -other.astype(int), permutations=999, generator=np.random.default_rng(0))
    >>> signed.shared, signed.expected, signed.p
    (0, 0.0, 1.0)
    """
    shared = int(((one == other) & (one != 0)).sum())
    a, b = ([int((heads > 0).sum()), int((heads < 0).sum())] for heads in (one, other))
    chance = shared_by_chance(a, b, one.size)
    in_layers = _by_permutation(np.stack([one, other]), permutations, generator)[2]
    return Overlap(shared, float(chance @ np.arange(len(chance))), float(min(chance[shared:].sum(), 1)), *in_layers)


def shared_by_chance(one: list[int], other: list[int], heads: int) -> np.ndarray:
    """The chances that two random sets share 0, 1, ... heads with the same sign.

    Given that j of the other's positive heads fall on negative ones of the first, the shared positive and the shared negative heads are
    independent and hypergeometric. Without negative heads the number shared is hypergeometric itself.

    Parameters
    ----------
    one, other : positive and negative heads of each set
    heads : of the model

    >>> shared_by_chance([1, 0], [1, 0], heads=4)
    array([0.75, 0.25])
    >>> shared_by_chance([1, 1], [1, 1], heads=2)  # either the same two, or with their signs exchanged
    array([0.5, 0. , 0.5])
    """
    (positive, negative), (others_positive, others_negative) = one, other
    chance = np.zeros(positive + negative + 1)
    for j in range(min(negative, others_positive) + 1):
        of_j = stats.hypergeom.pmf(j, heads, negative, others_positive)
        if of_j > 0:
            of_positive = stats.hypergeom.pmf(np.arange(positive + 1), heads - negative, positive, others_positive - j)
            of_negative = stats.hypergeom.pmf(np.arange(negative + 1), heads - others_positive, negative - j, others_negative)
            chance += of_j * np.convolve(of_positive, of_negative)
    return chance


def overlap_of_tasks(sets: np.ndarray, permutations: int, generator: np.random.Generator) -> dict[int, Overlap]:
    """The heads that are in at least 2, 3, ... of several sets with the same sign, by permutation.

    Parameters
    ----------
    sets : [task, layer, head], 0 where a head is not in the set, else its sign (or True)

    Returns
    -------
    By the number of sets a head must be in.

    >>> sets = np.zeros((3, 1, 10), dtype=bool)
    >>> sets[:, 0, 0] = True  # the same one head of ten in each of three tasks
    >>> found = overlap_of_tasks(sets, permutations=999, generator=np.random.default_rng(0))
    >>> {k: (of.shared, round(of.expected, 2), round(of.p, 2)) for k, of in found.items()}
    {2: (1, 0.3, 0.3), 3: (1, 0.02, 0.03)}
    """
    anywhere = _by_permutation(sets.reshape(len(sets), 1, -1), permutations, generator)
    in_layers = _by_permutation(sets, permutations, generator)
    times = _times(sets)
    return {k: Overlap(int((times >= k).sum()), *anywhere[k], *in_layers[k]) for k in anywhere}


def _by_permutation(sets: np.ndarray, permutations: int, generator: np.random.Generator) -> dict[int, tuple[float, float]]:
    """For 2, 3, ... sets: mean number of heads that at least so many share when each shuffles every layer's heads, and p of that seen."""
    needed = range(2, len(sets) + 1)
    if not permutations:
        return dict.fromkeys(needed, (np.nan, np.nan))
    seen = {k: int((_times(sets) >= k).sum()) for k in needed}
    block = max(1, BLOCK // sets.size)
    shuffled: dict[int, list[np.ndarray]] = {k: [] for k in needed}
    for start in range(0, permutations, block):
        copies = np.repeat(sets[None], min(block, permutations - start), axis=0)
        times = _times(np.moveaxis(generator.permuted(copies, axis=-1, out=copies), 1, 0))
        for k in needed:
            shuffled[k].append((times >= k).sum(axis=(1, 2)))
    numbers = {k: np.concatenate(shuffled[k]) for k in needed}
    return {k: (float(n.mean()), float((1 + (n >= seen[k]).sum()) / (1 + permutations))) for k, n in numbers.items()}


def _times(sets: np.ndarray) -> np.ndarray:
    """In how many sets [set, ...] each head is with the same sign, the one that it has more often: [...]."""
    positive = (sets > 0).sum(axis=0)
    return positive if sets.dtype == bool else np.maximum(positive, (sets < 0).sum(axis=0))


def jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Heads in both sets over heads in either, along the last axis, for sets with signs: a head is in both if with the same sign in both.

    Parameters
    ----------
    one, other : [..., head], 0 where a head is not in the set, else its sign (or True)

    Returns
    -------
    [...] in 0..1; NaN where both sets are empty

    >>> one, other = np.array([1, 1, 0, -1]), np.array([1, 0, 0, 1])
    >>> float(jaccard(one, other))  # one of three: the last has another sign
    0.3333333333333333
    """
    either = ((one != 0) | (other != 0)).sum(axis=-1)
    both = ((one == other) & (one != 0)).sum(axis=-1)
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)
