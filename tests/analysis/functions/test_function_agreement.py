"""Effects of the heads of each function: against numbers worked out by hand, enumeration and bootstrap of scipy."""

from itertools import combinations, product

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from analysis.functions.agreement import COLUMNS, agreement, random_heads_p
from analysis.functions.registry import OVERALL, Thresholds
from analysis.head_functions import find
from analysis.store.folder import ResultsError
from tests.support.synthetic_results import (
    DETECTS,
    HEADS,
    LAYERS,
    SUPPRESSES_OBJECT,
    SUPPRESSES_OUTLIERS,
    effects,
    head_effects,
    save,
    write_results,
)

QUICK = Thresholds(permutations=0, resamples=500)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("results"), models=["blip-small"])


@pytest.fixture(scope="module")
def found(results):
    return find(results, QUICK)


def test_random_heads_of_the_same_layers_against_every_one_of_them():
    generator = np.random.default_rng(0)
    effect = generator.normal(size=(3, 4))
    heads = np.zeros((3, 4), dtype=bool)
    heads[0, [0, 1]] = heads[2, 3] = True
    seen = effect[heads].mean()
    every = [np.mean([effect[0, a], effect[0, b], effect[2, c]]) for (a, b), c in product(combinations(range(4), 2), range(4))]
    expected, p = random_heads_p(effect, heads, generator, shuffles=100_000)
    assert expected == pytest.approx(np.mean(every))
    tails = [np.mean(np.array(every) >= seen - 1e-12), np.mean(np.array(every) <= seen + 1e-12)]
    assert p == pytest.approx(min(1, 2 * min(tails)), abs=0.01)


def test_a_whole_layer_tells_nothing():
    assert random_heads_p(np.arange(6.0).reshape(2, 3), np.array([[True] * 3, [False] * 3]), np.random.default_rng(0)) == (1.0, 1.0)


def test_random_sets_of_heads_are_rarely_special():
    generator = np.random.default_rng(1)
    effect = np.arange(4)[:, None] + generator.normal(size=(4, 8))  # later layers have larger effects
    p = []
    for _ in range(200):
        heads = np.zeros((4, 8), dtype=bool)
        heads[3, generator.choice(8, 3, replace=False)] = heads[2, generator.choice(8, 1)] = True
        p.append(random_heads_p(effect, heads, generator, shuffles=500)[1])
    assert np.mean(np.array(p) <= 0.05) < stats.binom.ppf(0.99, 200, 0.05) / 200


def test_each_function_is_set_beside_its_effects(results, found):
    table = agreement(results, found, QUICK)
    assert tuple(table.columns) == COLUMNS
    assert set(table.task) == {OVERALL, "shapes/colour", "shapes/shape"}
    rows = table[table.task == OVERALL].set_index(["corruption", "function"])
    sip = rows.loc["sip"]
    assert sip.heads.to_dict() == {"object_detection": 1, "object_suppression": 1, "outlier_suppression": 1, "none": LAYERS * HEADS - 3}
    assert sip.agrees.to_dict() == {"object_detection": "yes", "object_suppression": "no", "outlier_suppression": "", "none": ""}
    assert rows.loc[("str", "object_detection"), "agrees"] == "yes"
    assert rows.loc[("str", "object_suppression"), "agrees"] == "undecided"  # its effect under str is noise
    with xr.open_dataset(results / "blip-small/shapes/sip/cross_attention-heads.nc") as dataset:
        effect = dataset.load().effects.logit_difference().sel(token="correct")
    for function, at in {
        "object_detection": DETECTS,
        "object_suppression": SUPPRESSES_OBJECT,
        "outlier_suppression": SUPPRESSES_OUTLIERS,
    }.items():
        layer, head = at
        x = effect.values[:, layer, head]
        row = sip.loc[function]
        assert row.mean_effect == pytest.approx(x.mean(), abs=1e-6)
        assert row.share_positive == float(x.mean() > 0)
        assert row.expected_in_layers == pytest.approx(effect.values[:, layer].mean(), abs=1e-6)
        expected = stats.bootstrap((x,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
        np.testing.assert_allclose([row.low, row.high], expected, atol=0.008)
    shape = table[(table.task == "shapes/shape") & (table.corruption == "sip") & (table.function == "object_detection")].iloc[0]
    assert shape.samples == 12
    assert shape.mean_effect == pytest.approx(effect.values[1::2, *DETECTS].mean(), abs=1e-6)
    np.testing.assert_allclose(table.q_in_layers, stats.false_discovery_control(table.p_in_layers))


def test_in_the_noising_direction_signs_are_exchanged(tmp_path, found):
    logits = -head_effects(np.random.default_rng(0), [DETECTS])
    attrs = {"modality": "image", "corruption": "sip-noising", "direction": "noising", "model": "blip-small"}
    save(effects(logits + 4, ["correct"], ["correct"], **attrs), tmp_path / "blip-small/shapes/sip-noising/cross_attention-heads.nc")
    rows = agreement(tmp_path, found, QUICK)
    row = rows[(rows.task == OVERALL) & (rows.function == "object_detection")].iloc[0]
    assert (row.direction, row.expected_sign, row.agrees) == ("noising", -1, "yes")
    assert row.mean_effect == pytest.approx(-1, abs=0.05)


def test_effects_of_another_component_or_none_say_nothing(tmp_path, results, found):
    assert agreement(tmp_path, found, QUICK).empty
    other = {"blip-small": found["blip-small"].assign_attrs(component="self_attention")}
    assert agreement(results, other, QUICK).empty


def test_other_sizes_are_named(results, found):
    with pytest.raises(ResultsError, match="blip-small: attention has"):
        agreement(results, {"blip-small": found["blip-small"].isel(head=slice(3))}, QUICK)
