"""Attention file -> the scores of every sample and head, against the sample's own object and against the objects of other samples.

Samples are read a few at a time. Besides its own mask, each sample can be given the mask of another sample of its category (a permutation):
attention knows nothing of that mask, so what is found with it is found by chance.
"""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from analysis.functions import scores as head_scores
from analysis.functions.scores import INSIDE, favoured, mean_map, normalized, outlier_patches
from analysis.stats.resampling import stream

OF_OBJECT = (
    *("object_mass", "elsewhere_mass", "object_selectivity", "mean_object_mass", "even_object_mass"),
    *("auroc", "auroc_elsewhere", "pointing", "pointing_elsewhere", "inside", "outside", "outlier_ratio_off_object"),
)
OF_OUTLIERS = ("outlier_ratio", "evenness")
TESTED = ("object_mass", "elsewhere_mass", "object_selectivity", "mean_object_mass", "auroc", "outlier_ratio_off_object")  # what rules need
BLOCK = 64 * 2**20  # bytes of attention read at a time


def score_samples(
    attention: xr.Dataset, outlier_deviations: float = 2.0, most: float = 0.5, permutations: int = 0, seed: int = 0
) -> xr.Dataset:
    """The scores of every sample and head.

    Parameters
    ----------
    attention : an attention file: attention (sample, layer, head, patch), object_share (sample, patch), the part of each patch that the
        object covers or NaN where there is no mask, and category (sample).
    outlier_deviations, most : outlier patches are those of `head_scores.outlier_patches` that more than this share of the heads favours.
    permutations : how many times masks are also exchanged among the samples of each category, so that none keeps its own.

    Returns
    -------
    Against masks, each (sample, layer, head); NaN without a mask or where the head gives the image nothing:
        object_mass : share of the head's attention on the object (patches weighted by the part that is covered)
        elsewhere_mass : mean of the same over the objects of the other samples of the category
        object_selectivity : object_mass - elsewhere_mass, centred over objects (see `selectivity`)
        mean_object_mass, even_object_mass : object_mass of the mean head, and of an even map
        auroc, pointing : see `head_scores`; auroc_elsewhere, pointing_elsewhere with the masks of the other samples of the category
        inside, outside : mean attention to a patch on and off the object, in even shares
        outlier_ratio_off_object : `outlier_ratio` of the outlier patches that are not of the object
        permuted_<score> of `TESTED`, each (permutation, sample, layer, head) : the same against the mask of another sample
    Against outliers, each (sample, layer, head); NaN where the mean head's map has none:
        outlier_ratio : the head's mass on the outlier patches over the mean head's
        evenness : of the attention on the other patches
    (sample): category; outlier_patches, their number; outlier_on_object, the share of them that is of the object;
        outlier_favoured, the share of heads that give such a patch more than an even share.

    >>> maps = np.array([[[0.7, 0.1, 0.1, 0.1]], [[0.2, 0.6, 0.1, 0.1]]])  # sample, head, patch: each looks at its own object
    >>> attention = xr.Dataset(
    ...     {"attention": (("sample", "layer", "head", "patch"), maps[:, None]), "object_share": (("sample", "patch"), np.eye(4)[:2])},
    ...     coords={"category": ("sample", ["colour", "colour"])},
    ... )
    >>> scores = score_samples(attention)
    >>> scores["object_mass"].values.ravel(), scores["elsewhere_mass"].values.ravel(), scores["object_selectivity"].values.ravel()
    (array([0.7, 0.6]), array([0.1, 0.2]), array([0.55, 0.45]))
    >>> scores["auroc"].values.ravel(), scores["pointing"].values.ravel()
    (array([1., 1.]), array([1., 1.]))
    """
    category = attention["category"].values.astype(str)
    shares = attention["object_share"].transpose("sample", "patch").values.astype("float64")
    masked = np.isfinite(shares).all(axis=1) & (shares.sum(axis=1) > 0)
    members = [np.flatnonzero(masked & (category == c)) for c in sorted(set(category))]
    groups = [_Group(m, shares[m], _masks(len(m), permutations, seed), attention.sizes["layer"] * attention.sizes["head"]) for m in members]
    place = {int(sample): (group, row) for group in groups for row, sample in enumerate(group.members)}

    samples, shape = attention.sizes["sample"], (attention.sizes["layer"], attention.sizes["head"])
    of_object = {name: np.full((samples, np.prod(shape)), np.nan) for name in OF_OBJECT}
    permuted = {name: np.full((permutations, samples, np.prod(shape)), np.nan, dtype="float32") for name in TESTED}
    of_outliers = {name: np.full((samples, np.prod(shape)), np.nan) for name in OF_OUTLIERS}
    of_sample = {name: np.full(samples, np.nan) for name in ("outlier_on_object", "outlier_favoured", "outlier_patches")}
    for i, maps in _maps(attention):
        mean = mean_map(maps)
        by_heads = favoured(maps)
        outliers = outlier_patches(mean, outlier_deviations) & (by_heads > most)
        of_sample["outlier_patches"][i] = outliers.sum()
        if outliers.any():
            of_sample["outlier_favoured"][i] = by_heads[outliers].mean()
            of_outliers["outlier_ratio"][i] = head_scores.taken(maps, mean, outliers)
            of_outliers["evenness"][i] = head_scores.evenness(maps[:, ~outliers])
        if i not in place:
            continue
        group, row = place[i]
        if outliers.any():
            of_sample["outlier_on_object"][i] = (shares[i][outliers] >= INSIDE).mean()
        for name, values in group.scores(row, maps, mean, outliers).items():
            of_object[name][i] = values[:, 0]
            if name in permuted:
                permuted[name][:, i] = values[:, 1:].T
    for group in groups:
        here = group.members
        of_object["object_selectivity"][here] = group.selectivity(0, of_object["object_mass"][here], of_object["elsewhere_mass"][here])
        for k in range(permutations):
            own, elsewhere = (permuted[name][k, here].astype("float64") for name in ("object_mass", "elsewhere_mass"))
            permuted["object_selectivity"][k, here] = group.selectivity(1 + k, own, elsewhere)

    dims = ("sample", "layer", "head")
    return xr.Dataset(
        {name: (dims, values.reshape(samples, *shape)) for name, values in {**of_object, **of_outliers}.items()}
        | {f"permuted_{name}": (("permutation", *dims), values.reshape(-1, samples, *shape)) for name, values in permuted.items()}
        | {name: ("sample", values) for name, values in of_sample.items()},
        coords={"layer": np.arange(shape[0]), "head": np.arange(shape[1]), "category": ("sample", category.astype(object))},
    )


def exchanged(scores: xr.Dataset, permutation: int) -> xr.Dataset:
    """The scores as they are with the masks of one permutation.

    >>> attention = xr.open_dataset("results/blip-small/shapes/attention.nc")
    >>> scores = score_samples(attention, permutations=1)
    >>> chance = exchanged(scores, 0)
    >>> [round(float(one["object_mass"][:, 3, 0].mean()), 2) for one in (scores, chance)]  # L3.H0 looks at the object
    [0.87, 0.3]
    """
    return scores.assign({name: scores[f"permuted_{name}"].isel(permutation=permutation, drop=True) for name in TESTED})


def selectivity(own: np.ndarray, elsewhere: np.ndarray, received: np.ndarray) -> np.ndarray:
    """How much more attention a sample gives its own object than other samples' objects; 0 on average where attention ignores it.

    own - elsewhere - (received - mean of received), all shares of attention. Attention that prefers places where objects often are has
    own = elsewhere on average. The last term sums to 0 over samples; it takes away that a large object receives much from any sample,
    which would only be noise.

    Parameters
    ----------
    own : [..., sample, head], of its attention that a sample gives its own object
    elsewhere : what it gives the objects of the other samples, on average
    received : what the other samples give its object, on average

    Returns
    -------
    [..., sample, head]

    >>> selectivity(np.array([[0.6], [0.4]]), np.array([[0.1], [0.3]]), np.array([[0.3], [0.1]])).round(6)
    array([[0.4],
           [0.2]])
    """
    there = np.where(np.isfinite(own), received, np.nan)
    mean = np.nansum(there, axis=-2, keepdims=True) / np.maximum(np.isfinite(there).sum(axis=-2, keepdims=True), 1)
    return own - elsewhere - (received - mean)


class _Group:
    """The samples of a category that have a mask: their masks, and what all of them together give each object.

    Mass, area and hits are linear in the mask (or in labels over pairs), so that the mean over other samples' masks is that of one sum.

    Attributes
    ----------
    members : [sample], positions in the file
    shares : [sample, patch], their masks
    masks : [sample, 1 + permutations], whose mask each is scored against: its own, then others'
    """

    def __init__(self, members: np.ndarray, shares: np.ndarray, masks: np.ndarray, heads: int) -> None:
        self.members, self.shares, self.masks = members, shares, masks
        self._inside = shares >= INSIDE
        positive = self._inside.sum(axis=1)
        self._pairs = positive * (shares.shape[1] - positive)
        self._labels = (self._inside[self._pairs > 0] / self._pairs[self._pairs > 0, None]).sum(axis=0)
        self._offset = (positive * (positive + 1) / 2)[self._pairs > 0] @ (1 / self._pairs[self._pairs > 0])
        self._maps, self._count = np.zeros((heads, shares.shape[1])), np.zeros(heads)

    def scores(self, row: int, maps: np.ndarray, mean: np.ndarray, outliers: np.ndarray) -> dict[str, np.ndarray]:
        """The scores of one sample's maps [head, patch] against each of its masks, but for selectivity: [head, 1 + permutations]."""
        chosen = self.masks[row]
        shares, inside, seen = self.shares[chosen], self._inside[chosen], np.isfinite(maps).all(axis=1)
        self._maps += np.where(seen[:, None], maps, 0)
        self._count += seen
        ranked, most = head_scores.ranks(maps), head_scores.most_attended(maps)
        masses, areas = head_scores.mass(maps, shares), head_scores.area_of_ranks(ranked, inside, seen)
        hits = np.where(inside.any(axis=1), head_scores.mass(most, inside), np.nan)
        patches, covered = maps.shape[1], shares.sum(axis=1)
        there = np.where(seen, 1.0, np.nan)[:, None]
        return {
            "object_mass": masses,
            "elsewhere_mass": _others(
                head_scores.mass(maps, self.shares.sum(axis=0)), masses, np.ones(len(self.shares), dtype=bool), chosen
            ),
            "mean_object_mass": there * (shares @ mean),
            "even_object_mass": there * shares.mean(axis=1),
            "auroc": areas,
            "auroc_elsewhere": there * _others(ranked @ self._labels - self._offset, areas, self._pairs > 0, chosen),
            "pointing": hits,
            "pointing_elsewhere": _others(
                head_scores.mass(most, self._inside.sum(axis=0)), hits, np.asarray(self._inside.any(axis=1)), chosen
            ),
            "inside": masses * patches / covered,
            "outside": (1 - masses) * patches / np.where(covered < patches, patches - covered, np.nan),
            "outlier_ratio_off_object": head_scores.taken(maps, mean, outliers & ~inside),
        }

    def selectivity(self, k: int, own: np.ndarray, elsewhere: np.ndarray) -> np.ndarray:
        """`selectivity` [sample, head] with each sample's mask number k, after all samples were scored."""
        if not len(self.members):
            return own
        others = self._count - np.isfinite(own)
        given = (self.shares @ self._maps.T)[self.masks[:, k]]
        return selectivity(own, elsewhere, (given - np.nan_to_num(own)) / np.where(others > 0, others, np.nan))


def _others(total: np.ndarray, values: np.ndarray, used: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean over the masks in use but the chosen one: [head, chosen]; NaN where there is no other.

    Parameters
    ----------
    total : [head], summed over the masks in use
    values : [head, chosen], of the chosen ones
    used : bool [mask]
    """
    number = used.sum() - used[chosen]
    return (total[:, None] - np.where(used[chosen], values, 0)) / np.where(number > 0, number, np.nan)


def _masks(size: int, permutations: int, seed: int) -> np.ndarray:
    """Whose mask each sample is scored against: its own, then those of random cyclic permutations, in which none keeps its own."""
    columns = [np.arange(size)]
    for k in range(permutations):
        order = stream(seed, "masks", str(k)).permutation(size)
        columns.append(np.empty(size, dtype="int64"))
        columns[-1][order] = np.roll(order, 1)
    return np.stack(columns, axis=1)


def _maps(attention: xr.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """The normalised maps [head, patch] of each sample, read in blocks that hold whole chunks of the file."""
    variable = attention["attention"].transpose("sample", "layer", "head", "patch")
    samples, layers, heads, patches = variable.shape
    chunk = (attention["attention"].encoding.get("chunksizes") or (1,))[attention["attention"].dims.index("sample")]
    block = max(BLOCK // max(layers * heads * patches * variable.dtype.itemsize, 1) // chunk, 1) * chunk
    for start in range(0, samples, block):
        for offset, maps in enumerate(variable[start : start + block].values):
            yield start + offset, normalized(maps.reshape(layers * heads, patches))
