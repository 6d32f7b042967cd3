"""Maps of whole modules: peaks, thirds, their tests, and text beside image corruption, on effects whose statistics are known."""

import doctest

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from analysis.corruptions.options import Comparing
from analysis.corruptions.statistics import compare
from analysis.module_effects.maps import describe, peak
from analysis.module_effects.options import MapRule
from analysis.modules import find, write
from analysis.stats import resampling, thirds
from analysis.stats.multiple_tests import holm
from analysis.stats.resampling import paired
from analysis.stats.thirds import PAIRS, pairwise, size_by_third
from analysis.store.errors import NothingToAnalyse, ResultsError
from tests.support.synthetic_results import effects, save, write_results

QUICK = MapRule(resamples=200)
ROLES = ["[CLS]", "noun", "correct", "or", "incorrect"]
LAYERS, SAMPLES = 6, 24


def module_file(folder, logits, corruption="sip", component="mlp", roles=ROLES, **attrs) -> xr.Dataset:
    """A file of whole modules; `logits` [sample, layer, token]."""
    attrs = {"model": "m", "dataset": "d", "component": component, "modality": "image" if corruption == "sip" else "text"} | attrs
    dataset = effects(logits, range(len(roles)), roles, corruption=corruption, **attrs)
    save(dataset, folder / attrs["model"] / attrs["dataset"] / corruption / f"{component}.nc")
    return dataset


def noise(seed=0, size=0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (SAMPLES, LAYERS, len(ROLES)))


def planted(layer: int, role: str, size: float, seed=0) -> np.ndarray:
    logits = noise(seed)
    logits[:, layer, ROLES.index(role)] += size
    return logits


def test_examples_in_the_docstrings():
    for module in (resampling, thirds):
        assert doctest.testmod(module, extraglobs={"np": np}).failed == 0


def test_the_peak_is_the_planted_cell_with_a_t_like_interval():
    found = describe(effects(planted(2, "correct", -1.5), range(5), ROLES), MapRule(resamples=4000)).sel(order="all")
    assert (int(found["peak_layer"]), found["peak_role"].item(), float(found["peak_frequency"])) == (2, "correct", 1.0)
    values = planted(2, "correct", -1.5).astype("float32")[:, 2, 2]
    assert float(found["peak_effect"]) == pytest.approx(values.mean(), abs=1e-5)
    low, high = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, random_state=1).confidence_interval
    np.testing.assert_allclose([found["peak_low"], found["peak_high"]], [low, high], atol=0.005)
    np.testing.assert_allclose(found["low"].sel(layer=2, role="correct"), found["peak_low"], atol=1e-12)


def test_a_peak_that_is_a_toss_up_is_there_in_about_half_of_the_resamples():
    generator = np.random.default_rng(3)
    x = np.zeros((400, 3, 2))
    x[:, 0, 0] = generator.normal(1, 1, 400)
    x[:, 2, 1] = generator.permutation(x[:, 0, 0]) + 1e-9
    weights = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), 2000) / 400
    means = np.concatenate([x.mean(axis=0)[None], np.einsum("rs,slc->rlc", weights, x)])
    found = peak(means)
    assert 0.4 < found.frequency < 0.6
    assert found.layer_frequency == found.frequency
    assert peak(np.zeros((5, 2, 2))) is None


def test_shares_of_thirds_are_those_planted_and_thirds_of_other_sizes_compare_by_layer():
    exact = np.ones((SAMPLES, 4, len(ROLES))) * np.array([1, 2, 3, 4])[:, None]
    exact[::2] *= -1
    found = describe(effects(exact, range(5), ROLES), QUICK).sel(order="all")
    np.testing.assert_allclose(found["share"], [0.1, 0.5, 0.4], atol=1e-6)
    np.testing.assert_allclose(found["even"], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(found["difference"], np.array([1 - 2.5, 1 - 4, 2.5 - 4]) * len(ROLES), atol=1e-4)


def test_shares_and_maps_are_those_of_the_corruptions_side_by_side():
    values = xr.DataArray(noise(7), dims=("sample", "layer", "role"), coords={"role": ROLES})
    found = describe(effects(values.values, range(5), ROLES), QUICK).sel(order="all")
    compared = compare(values.expand_dims(corruption=["sip"]), Comparing(resamples=QUICK.resamples)).isel(corruption=0)
    np.testing.assert_allclose(found["share"], compared["share"], atol=1e-5)
    np.testing.assert_allclose(found["mean_effect"], compared["mean_effect"], atol=1e-5)
    np.testing.assert_allclose(found["share_high"] - found["share_low"], compared["share_high"] - compared["share_low"], rtol=0.3)


def test_layers_and_samples_without_effects_do_not_count():
    x = np.ones((3, 6, 2))
    x[:, 0] = np.nan
    x[2] = np.nan
    x[0, 1, 1] = -3
    np.testing.assert_allclose(size_by_third(x), [[4, 2, 2], [2, 2, 2], [np.nan] * 3])
    x[:, :2] = np.nan
    assert np.isnan(size_by_third(x)[:, 0]).all()


def test_paired_tests_are_those_of_scipy():
    generator = np.random.default_rng(5)
    x = np.append(generator.normal([0.3, 0.0, -0.5], 1, (12, 3)), [[np.nan, 1, 1]], axis=0)
    found = paired(x, 2000, 0.95, generator)
    expected = stats.permutation_test((x[:12],), np.mean, permutation_type="samples", n_resamples=np.inf, axis=0)
    np.testing.assert_allclose(found["p"], expected.pvalue, atol=1e-9)
    np.testing.assert_allclose(found["mean"], x[:12].mean(axis=0))
    assert np.isnan(paired(x[:1], 10, 0.95, generator)["p"]).all()


def test_holm_is_its_definition():
    p = np.random.default_rng(0).uniform(size=9) ** 3
    order = np.argsort(p)
    slow = np.empty(9)
    for rank, at in enumerate(order):
        slow[at] = min(1, max((9 - j) * p[order[j]] for j in range(rank + 1)))
    np.testing.assert_allclose(holm(p), slow)


def test_depth_tests_hold_their_level_where_all_layers_are_alike():
    wrong = 0
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=(20, 6, 3))
        p = paired(pairwise(size_by_third(x)), 10, 0.95, np.random.default_rng(seed), flips=2000)["p"]
        wrong += (holm(p) <= 0.05).any()
    assert wrong <= 8  # 3 expected, more than 8 in one of 500 runs


def test_orders_are_kept_apart_with_their_own_places_of_roles(tmp_path):
    logits = noise()
    first = np.arange(SAMPLES) % 4 < 2  # as `effects` has it
    logits[first, 1, 2] += 2
    logits[~first, 4, 2] += 2
    dataset = module_file(tmp_path, logits)
    dataset["token_role"][~first] = np.array(["[CLS]", "noun", "incorrect", "or", "correct"], dtype=object)
    maps = describe(dataset, QUICK)
    assert [int(n) for n in maps["samples"]] == [24, 12, 12]
    assert [(int(m["peak_layer"]), m["peak_role"].item()) for m in (maps.sel(order=o) for o in ("correct_first", "correct_second"))] == [
        (1, "correct"),
        (4, "incorrect"),
    ]
    assert [float(maps["place"].sel(order=o, role="correct")) for o in ("all", "correct_first", "correct_second")] == [3.0, 2.0, 4.0]
    np.testing.assert_allclose(
        maps["mean_effect"].sel(order="correct_second", role="incorrect"), logits[~first, :, 2].astype("float32").mean(0), atol=1e-5
    )


def test_one_order_alone_leaves_the_other_empty():
    dataset = effects(noise(), range(5), ROLES).isel(sample=np.arange(SAMPLES) % 4 < 2)
    maps = describe(dataset, QUICK)
    assert [int(n) for n in maps["samples"]] == [12, 12, 0]
    assert int(maps["peak_layer"].sel(order="correct_second")) == -1
    assert maps["mean_effect"].sel(order="correct_second").isnull().all()


def test_text_beside_image(tmp_path):
    module_file(tmp_path, planted(0, "noun", 3), "str")
    module_file(tmp_path, planted(5, "correct", 3), "sip")
    module_file(tmp_path, planted(5, "correct", 3), "sip", component="block")
    words = write(tmp_path, QUICK).words
    beside = pd.read_csv(tmp_path / "modules_text_image.csv")
    (row,) = beside.itertuples()
    assert (row.image, row.image_peak_layer, row.image_peak_role) == ("sip", 5, "correct")
    assert (row.text, row.text_peak_layer, row.text_peak_role) == ("str", 0, "noun")
    assert row.difference_late_low > 0 > row.difference_early_high
    assert "m/d mlp, sip less str: late share +0." in words
    table = pd.read_csv(tmp_path / "modules.csv")
    assert len(table) == 9
    of_sip = table.query("component == 'mlp' and corruption == 'sip' and order == 'all'").iloc[0]
    assert of_sip["early-late_high"] < 0
    assert of_sip["early-late_p"] < of_sip["early-late_p_holm"] < 0.05
    with xr.open_datatree(tmp_path / "modules.nc") as tree:
        maps = tree["m/d/mlp"].to_dataset().load()
    assert list(maps["corruption"].values) == ["sip", "str"]
    assert list(maps["modality"].values) == ["image", "text"]
    np.testing.assert_allclose(
        holm(table[[f"{a}-{b}_p" for a, b in PAIRS]].values.ravel()), table.filter(like="holm").values.ravel(), atol=1e-5
    )
    pictures = sorted(path.name for path in (tmp_path / "figures" / "m" / "d").iterdir())
    assert pictures == ["modules-block.pdf", "modules-block.png", "modules-mlp.pdf", "modules-mlp.png"]


def test_windows_directions_and_heads_are_kept_apart(tmp_path):
    write_results(tmp_path, models=("llava-small",))
    module_file(tmp_path, noise(), "sip-noising", direction="noising")
    windowed = effects(noise(1), range(5), ROLES, model="m", dataset="d", component="mlp", window=3)
    save(windowed, tmp_path / "m" / "d" / "sip" / "mlp-window3.nc")
    found = find(tmp_path, QUICK)
    assert sorted(found) == [
        "llava-small/shapes/block",
        "llava-small/shapes/mlp",
        "llava-small/shapes/self_attention",
        "m/d/mlp-noising",
        "m/d/mlp-window3",
    ]
    assert list(found["m/d/mlp-noising"]["corruption"].values) == ["sip"]


def test_what_cannot_be_mapped_is_said(tmp_path):
    with pytest.raises(ResultsError, match="no effects of whole modules"):
        find(tmp_path, QUICK)
    (tmp_path / "modules.csv").write_text("of an earlier run")
    with pytest.raises(NothingToAnalyse, match="no effects of whole modules"):
        write(tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ResultsError, match="no results folder"):
        write(tmp_path / "none")
    module_file(tmp_path, np.full((4, 3, 5), np.nan))
    with pytest.raises(ResultsError, match=r"mlp\.nc: no sample has an effect"):
        find(tmp_path, QUICK)
    for wrong, message in (({"metric": "kl"}, "no metric 'kl'"), ({"confidence": 2.0}, "confidence is 2.0; it must lie between 0 and 1")):
        with pytest.raises(ResultsError, match=f"^(there is )?{message}"):
            MapRule(**wrong)
    module_file(tmp_path, noise()[:, :2])
    found = write(tmp_path, QUICK).data
    beside = pd.read_csv(tmp_path / "modules_text_image.csv")
    assert np.isnan(found["m/d/mlp"]["share"]).all()
    assert beside.empty
