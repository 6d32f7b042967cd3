"""The scores of samples against loops over samples, heads and masks."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from analysis.functions.samples import OF_OBJECT, TESTED, exchanged, score_samples, selectivity
from analysis.functions.scores import INSIDE

SAMPLES, LAYERS, HEADS, GRID = 11, 2, 3, 4


def attention_file(seed: int = 0, missing: bool = True, masks: np.ndarray | None = None) -> xr.Dataset:
    """Maps that favour one patch, in two categories; one sample without a mask, one head that ignores the image once."""
    generator = np.random.default_rng(seed)
    maps = generator.exponential(size=(SAMPLES, LAYERS, HEADS, GRID**2))
    maps[..., 0] += 3
    shares = np.clip(generator.normal(0, 1, (SAMPLES, GRID**2)), 0, 1) if masks is None else masks
    if missing:
        maps[2, 1, 0] = 0
        shares[5] = np.nan
    return xr.Dataset(
        {"attention": (("sample", "layer", "head", "patch"), 0.7 * maps), "object_share": (("sample", "patch"), shares)},
        coords={"category": ("sample", np.array(["b", "a", "a"])[np.arange(SAMPLES) % 3])},
    )


def slow_scores(attention: xr.Dataset, of: np.ndarray, deviations: float = 2.0) -> dict[str, np.ndarray]:
    """Every score by loops, where sample i is scored against the mask of sample of[i]."""
    maps = attention["attention"].values.astype("float64").reshape(SAMPLES, -1, GRID**2)
    shares, category = attention["object_share"].values, attention["category"].values
    with np.errstate(invalid="ignore"):
        maps = maps / maps.sum(axis=-1, keepdims=True)
    masked = [i for i in range(SAMPLES) if np.isfinite(shares[i]).all()]
    names = (*OF_OBJECT, "outlier_ratio", "evenness")
    found = {name: np.full(maps.shape[:2], np.nan) for name in names}

    def area(values, mask):
        inside = mask >= INSIDE
        return stats.mannwhitneyu(values[inside], values[~inside]).statistic / (inside.sum() * (~inside).sum())

    def hit(values, mask):
        return float(mask[values.argmax()] >= INSIDE)

    for i in range(SAMPLES):
        seen = [h for h in range(maps.shape[1]) if np.isfinite(maps[i, h]).all()]
        mean = np.mean([maps[i, h] for h in seen], axis=0)
        most = np.mean([maps[i, h] > 1 / GRID**2 for h in seen], axis=0) > 0.5
        outliers = (mean >= mean.mean() + deviations * mean.std()) & most
        for h in seen:
            x = maps[i, h]
            if outliers.any():
                found["outlier_ratio"][i, h] = x[outliers].sum() / mean[outliers].sum()
                found["evenness"][i, h] = stats.entropy(x[~outliers]) / np.log((~outliers).sum())
            if i not in masked:
                continue
            mask = shares[of[i]]
            others = [j for j in masked if category[j] == category[i] and j != of[i]]
            own, elsewhere = x @ mask, np.mean([x @ shares[j] for j in others])
            given = {j: [maps[k, h] @ shares[of[j]] for k in masked if category[k] == category[i] and k != j] for j in range(SAMPLES)}
            received = {j: np.nanmean(given[j]) for j in masked if category[j] == category[i] and np.isfinite(maps[j, h]).all()}
            found["object_mass"][i, h], found["elsewhere_mass"][i, h] = own, elsewhere
            found["object_selectivity"][i, h] = own - elsewhere - (received[i] - np.mean(list(received.values())))
            found["mean_object_mass"][i, h], found["even_object_mass"][i, h] = mean @ mask, mask.mean()
            found["auroc"][i, h], found["auroc_elsewhere"][i, h] = area(x, mask), np.mean([area(x, shares[j]) for j in others])
            found["pointing"][i, h], found["pointing_elsewhere"][i, h] = hit(x, mask), np.mean([hit(x, shares[j]) for j in others])
            found["inside"][i, h] = own / mask.sum() * GRID**2
            found["outside"][i, h] = (x @ (1 - mask)) / (1 - mask).sum() * GRID**2
            off = outliers & (mask < INSIDE)
            if off.any():
                found["outlier_ratio_off_object"][i, h] = x[off].sum() / mean[off].sum()
    return {name: values.reshape(SAMPLES, LAYERS, HEADS) for name, values in found.items()}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_score_agrees_with_loops(seed, missing):
    attention = attention_file(seed, missing)
    scores = score_samples(attention)
    for name, expected in slow_scores(attention, np.arange(SAMPLES)).items():
        np.testing.assert_allclose(scores[name].values, expected, atol=1e-10, err_msg=name)
    assert bool(scores["object_mass"].isnull().any()) == missing


def test_permuted_scores_are_those_of_another_samples_mask():
    attention = attention_file(3)
    scores = score_samples(attention, permutations=3, seed=7)
    shares, category = attention["object_share"].values, attention["category"].values
    masks = [scores["permuted_object_mass"].isel(permutation=k).values for k in range(3)]
    assert not np.array_equal(masks[0], masks[1], equal_nan=True)
    own = scores["object_mass"].values
    for k in range(3):
        maps = attention["attention"].values / attention["attention"].values.sum(axis=-1, keepdims=True).clip(1e-30)
        of = np.arange(SAMPLES)
        for i in np.flatnonzero(np.isfinite(shares).all(axis=1)):
            given = [j for j in range(SAMPLES) if category[j] == category[i] and np.allclose(maps[i, 0, 1] @ shares[j], masks[k][i, 0, 1])]
            assert len(given) == 1
            of[i] = given[0]
            assert of[i] != i
            assert masks[k][i, 0, 1] != own[i, 0, 1]
        assert sorted(of) == list(range(SAMPLES))
        expected = slow_scores(attention, of)
        replaced = exchanged(scores, k)
        for name in TESTED:
            np.testing.assert_allclose(replaced[name].values, expected[name], atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(replaced["evenness"], scores["evenness"])


def test_float32_files_read_in_blocks_give_the_same(tmp_path, monkeypatch):
    attention = attention_file(4)
    attention["attention"] = attention["attention"].astype("float32").transpose("layer", "sample", "patch", "head")
    attention.to_netcdf(tmp_path / "a.nc", encoding={"attention": {"zlib": True, "chunksizes": (1, 4, 16, 3)}})
    monkeypatch.setattr("analysis.functions.samples.BLOCK", 1)
    with xr.open_dataset(tmp_path / "a.nc") as read:
        found = score_samples(read, permutations=1)
    expected = score_samples(attention_file(4), permutations=1)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=1e-5, err_msg=str(name))


def test_selectivity_is_nothing_but_own_less_elsewhere_on_average():
    generator = np.random.default_rng(0)
    given = generator.uniform(size=(20, 50, 20)) * generator.lognormal(sigma=1, size=20)  # sample, head, object: some are large
    own = np.einsum("ihi->ih", given)
    elsewhere, received = (given.sum(axis=2) - own) / 19, (given.sum(axis=0).T - own) / 19
    found = selectivity(own, elsewhere, received)
    np.testing.assert_allclose(found.mean(axis=0), (own - elsewhere).mean(axis=0))
    assert found.std(axis=0).mean() < 0.8 * (own - elsewhere).std(axis=0).mean()


def test_one_sample_of_a_category_has_no_elsewhere():
    attention = attention_file(0, missing=False).isel(sample=[0, 1, 2]).assign_coords(category=("sample", ["a", "b", "b"]))
    scores = score_samples(attention, permutations=1)
    assert scores["elsewhere_mass"].isel(sample=0).isnull().all()
    assert scores["elsewhere_mass"].isel(sample=[1, 2]).notnull().all()
    assert scores["object_mass"].notnull().all()
    np.testing.assert_allclose(scores["permuted_object_mass"][0, 1], scores["elsewhere_mass"].isel(sample=1), atol=1e-6)


def test_what_one_head_alone_looks_at_is_no_outlier_unless_asked_for():
    attention = attention_file(0, missing=False)
    attention["attention"].values[:] = np.random.default_rng(0).uniform(0.9, 1.1, attention["attention"].shape)
    attention["attention"].values[..., 3] = 0.5
    attention["attention"].values[:, 0, 0, 3] = 100
    assert score_samples(attention)["outlier_ratio"].isnull().all()
    asked = score_samples(attention, most=0.0)
    assert (asked["outlier_patches"] == 1).all()
    assert (asked["outlier_ratio"].isel(layer=0, head=0) > 5).all()


def test_without_masks_there_are_outlier_scores_alone():
    scores = score_samples(attention_file(0, masks=np.full((SAMPLES, GRID**2), np.nan), missing=False), permutations=2)
    assert all(scores[name].isnull().all() for name in (*OF_OBJECT, *(f"permuted_{name}" for name in TESTED)))
    assert scores["outlier_ratio"].notnull().any()
