"""Corruptions side by side, on effects whose shares, ranks and claim are planted."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from analysis.compare_corruptions import find, write
from analysis.corruptions.comparable import compare_folder
from analysis.corruptions.options import Comparing
from analysis.corruptions.statistics import claim, compare
from analysis.corruptions.tables import cut, share_table
from analysis.stats.thirds import thirds
from analysis.store.folder import ResultsError
from tests.support.synthetic_results import effects, save, write_results

QUICK = Comparing(resamples=200)
LAYERS, HEADS, SAMPLES = 6, 4, 30


def arrays(of_corruptions: dict[str, np.ndarray]) -> xr.DataArray:
    """[corruption, sample, layer, head] from [sample, layer, head] of each."""
    values = np.stack(list(of_corruptions.values()))
    coords = {dim: np.arange(size) for dim, size in zip(("sample", "layer", "head"), values.shape[1:], strict=True)}
    return xr.DataArray(values, dims=("corruption", "sample", "layer", "head"), coords=coords | {"corruption": list(of_corruptions)})


def by_layer(weights: list[float], seed: int = 0) -> np.ndarray:
    """Effects of either sign and of a size that varies by sample, whose mean |effect| is in proportion to `weights` of each layer."""
    generator = np.random.default_rng(seed)
    size = generator.uniform(0.5, 1.5, (SAMPLES, LAYERS, HEADS)) * np.array(weights)[:, None]
    return size * generator.choice([-1, 1], size.shape)


def write_heads(folder, corruption: str, logits: np.ndarray, tokens=("correct",), **attrs) -> xr.Dataset:
    """A file of heads; `logits` [sample, layer, head] at every token."""
    of_tokens = np.repeat(logits[..., None], len(tokens), axis=-1)
    modality = {"str": "text", "str-noising": "text"}.get(corruption, "image")
    attrs = {"model": "m", "dataset": "d", "corruption": corruption, "modality": modality, **attrs}
    dataset = effects(of_tokens, list(tokens), list(tokens), **attrs)
    save(dataset, folder / "m" / "d" / corruption / "cross_attention-heads.nc")
    return dataset


LATE, EVEN = [0.2, 0.2, 0.2, 0.2, 4, 4], [1.0] * 6


@pytest.mark.parametrize(
    ("layers", "sizes"), [(3, [1, 1, 1]), (4, [1, 2, 1]), (5, [2, 1, 2]), (6, [2, 2, 2]), (12, [4, 4, 4]), (32, [11, 10, 11])]
)
def test_thirds_have_outer_parts_of_one_size(layers, sizes):
    assert list(np.bincount(thirds(layers))) == sizes
    assert (np.diff(thirds(layers)) >= 0).all()


def test_shares_of_thirds_are_those_planted():
    exact = np.ones((SAMPLES, LAYERS, HEADS)) * np.array([1, 2, 3, 4, 5, 5])[:, None]
    exact[::2] *= -1  # signs cancel in the mean effect, not in its size
    found = compare(arrays({"sip": exact, "str": by_layer(EVEN)}), QUICK)
    np.testing.assert_allclose(found["share"].sel(corruption="sip"), [0.15, 0.35, 0.5])
    np.testing.assert_allclose(found["share_low"].sel(corruption="sip"), [0.15, 0.35, 0.5])
    np.testing.assert_allclose(found["mean_effect"].sel(corruption="sip"), 0, atol=1e-12)
    np.testing.assert_allclose(found["share"].sel(corruption="str"), 1 / 3, atol=0.03)
    assert (found["share_low"].sel(corruption="str") < found["share_high"].sel(corruption="str")).all()
    late = found["share_difference"].sel(corruption="sip", other="str", third="late")
    assert float(late) == pytest.approx(0.5 - float(found["share"].sel(corruption="str", third="late")))


def test_rank_correlations_are_spearmans():
    generator = np.random.default_rng(1)
    order = generator.permutation(24).reshape(LAYERS, HEADS) + 1
    noise = generator.normal(0, 0.3, (2, SAMPLES, LAYERS, HEADS))
    other = order * np.where(generator.random(order.shape) < 0.5, -1, 1)  # as large, of another sign
    found = compare(arrays({"sip": order + noise[0], "str": other + noise[1]}), QUICK)
    pair = found.sel(corruption="sip", other="str")
    for score, values in {"mean_absolute_effect": np.abs, "mean_effect": np.array}.items():
        means = [values(x).mean(axis=0).ravel() for x in (order + noise[0], other + noise[1])]
        one = pair.sel(score=score)
        assert float(one["rank_correlation"]) == pytest.approx(stats.spearmanr(*means).statistic)
        assert one["rank_correlation_low"] <= one["rank_correlation"] <= one["rank_correlation_high"]
    assert float(pair["rank_correlation"].sel(score="mean_absolute_effect")) > 0.95
    assert (found["halves_correlation"] > 0.95).all()


def test_halves_show_that_heads_are_ranked_by_chance():
    chance = np.random.default_rng(2).normal(size=(2, SAMPLES, 12, 12))
    found = compare(arrays({"sip": chance[0], "str": chance[1]}), QUICK)
    assert (abs(found["halves_correlation"]) < 0.2).all()


def test_the_largest_rank_correlation_that_the_samples_allow():
    """Two corruptions with the same true effects of heads: what is seen is about the ceiling, and far from 1."""
    generator = np.random.default_rng(3)
    true = generator.normal(size=(1, LAYERS, 40)) * 0.3
    noisy = {name: true + generator.normal(size=(SAMPLES, *true.shape[1:])) for name in ("sip", "str")}
    found = compare(arrays(noisy), QUICK).sel(score="mean_effect")
    halves = found["halves_correlation"].values
    pair = found.sel(corruption="sip", other="str")
    assert float(pair["ceiling"]) == pytest.approx(np.sqrt((2 * halves / (1 + halves)).prod()))
    assert 0.4 < float(pair["ceiling"]) < 0.9
    assert float(pair["rank_correlation"]) == pytest.approx(float(pair["ceiling"]), abs=0.1)
    assert float(pair["rank_correlation_low"]) <= float(pair["rank_correlation"]) <= float(pair["rank_correlation_high"])


def test_only_samples_that_every_corruption_has_are_compared(tmp_path):
    one, other = by_layer(EVEN, 1), by_layer(EVEN, 2)
    one[20:], other[:5] = np.nan, np.nan
    write_heads(tmp_path, "sip", one)
    write_heads(tmp_path, "str", other)
    found, left_out = compare_folder(tmp_path, QUICK)
    (compared,) = found.values()
    assert list(compared["samples"].values) == [15, 15]
    np.testing.assert_allclose(compared["mean_effect"].sel(corruption="sip"), one[5:20].mean(axis=0), atol=1e-6)
    assert left_out == [
        f"m/d/cross_attention-heads: {without} of the {there} samples under {corruption}: not all of the other corruptions have them"
        for corruption, without, there in (("sip", 5, 20), ("str", 10, 25))
    ]
    other[:20] = np.nan
    write_heads(tmp_path, "str", other)
    with pytest.raises(ResultsError, match=r"0 sample\(s\) have an effect under every corruption \(sip 20, str 10\)"):
        find(tmp_path, QUICK)


@pytest.mark.parametrize(
    ("noise", "sip", "verdict"),
    [
        (LATE, EVEN, "holds"),
        (EVEN, EVEN, "does not hold"),  # not confined
        (LATE, LATE, "does not hold"),  # SIP is confined as well
    ],
)
def test_the_claim_can_come_out_either_way(noise, sip, verdict):
    found = compare(arrays({"sip": by_layer(sip, 1), "str": by_layer(EVEN, 2), "gaussian_noise": by_layer(noise, 3)}), QUICK)
    assert claim(found, "gaussian_noise", ["sip", "str"], 0.5) == verdict


def test_the_claim_is_undecided_where_samples_do_not_tell():
    noise = by_layer(EVEN, 3)
    noise[::2, :4] = 0  # half of the samples have it all in the last third,
    noise[1::2, 4:] = 0  # the others none
    noise[::2] *= 2
    found = compare(arrays({"sip": by_layer(EVEN, 1), "str": by_layer(EVEN, 2), "gaussian_noise": noise}), QUICK)
    assert claim(found, "gaussian_noise", ["sip", "str"], 0.5) == "undecided"


def test_cells_and_samples_without_effects_are_left_out_alike():
    one, other = by_layer(EVEN, 1), by_layer(EVEN, 2)
    one[:, 5, 0] = np.nan  # a cell that one corruption lacks
    other[20:] = np.nan  # samples that the other lacks
    other[0, 0, 0] = np.nan
    found = compare(arrays({"sip": one, "str": other}), QUICK)
    assert list(found["samples"].values) == [30, 20]
    assert (int(found["cells"]), int(found["cells_left_out"])) == (23, 1)
    expected = np.abs(np.nanmean(np.abs(other), axis=0))
    np.testing.assert_allclose(found["mean_absolute_effect"].sel(corruption="str"), expected)
    expected[5, 0] = 0
    np.testing.assert_allclose(found["share"].sel(corruption="str", third="late"), expected[4:].sum() / expected.sum())


def test_no_effect_at_all_has_no_share_and_leaves_the_claim_undecided(tmp_path):
    for corruption, logits in {"sip": by_layer(EVEN), "gaussian_noise": np.zeros((SAMPLES, LAYERS, HEADS))}.items():
        write_heads(tmp_path, corruption, logits)
    written = write(tmp_path, QUICK)
    (compared,) = written.data.values()
    assert np.isnan(compared["share"].sel(corruption="gaussian_noise")).all()
    assert "undecided" in written.words


def test_draws_are_averaged_before_effects_are_sized(tmp_path):
    write_heads(tmp_path, "sip", by_layer(EVEN))
    noise = write_heads(tmp_path, "gaussian_noise", by_layer(LATE, 1))
    names = ("logit_correct", "logit_incorrect", "log_normalizer")
    draws = noise.assign(
        {n: noise[n].expand_dims(draw=2, axis=1) for n in names}
        | {f"corrupt_{n}": noise[f"corrupt_{n}"].expand_dims(draw=2, axis=1) for n in names}
    ).assign_coords(draw=[0, 1])
    draws["logit_correct"] = draws["logit_correct"] + xr.DataArray([5.0, -5.0], dims="draw")  # larger than any effect
    plain = find(tmp_path, QUICK)["m/d/cross_attention-heads"]
    save(draws, tmp_path / "m" / "d" / "gaussian_noise" / "cross_attention-heads.nc")
    of_draws = find(tmp_path, QUICK)["m/d/cross_attention-heads"]
    np.testing.assert_allclose(of_draws["mean_absolute_effect"], plain["mean_absolute_effect"], atol=1e-5)


def test_tables_files_and_figures(tmp_path):
    write_results(tmp_path)
    words = write(tmp_path, Comparing(resamples=200, model="llava-small", component="self_attention")).words
    table = pd.read_csv(tmp_path / "compare_corruptions.csv")
    assert set(table["row"]) == {"share", "claim"}
    assert set(table.loc[table["row"] == "claim", "claim"]) == {"not judged: no gaussian_noise"}
    shares = table[table["row"] == "share"]
    np.testing.assert_allclose(shares[["early", "middle", "late"]].sum(axis=1), 1, atol=1e-5)
    ranks = pd.read_csv(tmp_path / "compare_corruptions_ranks.csv")
    assert set(zip(ranks["a"], ranks["b"], strict=True)) == {("sip", "sip"), ("sip", "str"), ("str", "str")}
    assert "llava-small/shapes/self_attention-heads at 'last', share of mean |effect| in layers 0 | 1-2 | 3" in words
    with xr.open_datatree(tmp_path / "compare_corruptions.nc") as tree:
        modules = tree["llava-small/shapes/self_attention"].to_dataset().load()
    assert list(modules["role"].values)[:3] == ["[CLS]", "template", "image"]  # in the prompt's order
    figures = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "figures").rglob("*.png"))
    names = ("heads-by-layer.png", "heads.png")
    assert figures == [f"figures/llava-small/shapes/compare-self_attention-{name}" for name in ("by-layer.png", *names)] + [
        "figures/llava-small/shapes/compare-self_attention.png"
    ]
    assert all((tmp_path / name).with_suffix(".pdf").is_file() for name in figures)


def test_the_claim_is_a_row_with_its_differences(tmp_path):
    for seed, (corruption, weights) in enumerate({"sip": EVEN, "str": EVEN, "gaussian_noise": LATE, "inpainting": LATE}.items()):
        write_heads(tmp_path, corruption, by_layer(weights, seed))
    table = share_table(find(tmp_path, QUICK))
    assert list(table["row"]) == ["share"] * 4 + ["difference"] * 2 + ["claim"]
    assert list(table["corruption"])[-3:] == ["gaussian_noise - sip", "gaussian_noise - str", "gaussian_noise against sip, str"]
    assert list(table["corruption"])[3] == "gaussian_noise"
    assert table["claim"].iloc[-1] == "holds"
    assert set(table["cut"]) == {"0-1 | 2-3 | 4-5"}


def test_only_like_is_compared_with_like(tmp_path):
    for corruption in ("sip", "str", "sip-noising", "str-noising"):
        write_heads(tmp_path, corruption, by_layer(EVEN), direction="noising" if "-" in corruption else "denoising")
    mlp = effects(by_layer(EVEN), range(HEADS), ["noun"] * HEADS, model="m", dataset="d", component="mlp", modality="image").assign_attrs(
        window=3
    )
    save(mlp, tmp_path / "m" / "d" / "sip" / "mlp-window3.nc")
    found, left_out = compare_folder(tmp_path, QUICK)
    assert sorted(found) == ["m/d/cross_attention-heads", "m/d/cross_attention-heads-noising"]
    assert list(found["m/d/cross_attention-heads-noising"]["corruption"].values) == ["sip", "str"]
    (reason,) = left_out
    assert reason.startswith("m/d/mlp-window3: only sip to compare")
    assert f"module_patching --model m --data data/d --out {tmp_path} --corruption str --components mlp --window 3" in reason


def test_tokens_that_all_corruptions_have(tmp_path):
    write_heads(tmp_path, "sip", by_layer(EVEN), tokens=("correct", "last"))
    write_heads(tmp_path, "str", by_layer(EVEN), tokens=("last", "or"))
    assert find(tmp_path, QUICK)["m/d/cross_attention-heads"].attrs["token"] == "last"  # the main one is "correct"
    with pytest.raises(ResultsError, match=r"not every corruption has heads at token 'or' \(sip: correct, last; str: last, or\)"):
        find(tmp_path, Comparing(token="or"))


def test_layers_that_cannot_be_cut_and_other_data_are_said(tmp_path):
    for corruption in ("sip", "str"):
        write_heads(tmp_path, corruption, by_layer(EVEN)[:, :2])
    with pytest.raises(ResultsError, match="2 layers, which cannot be cut into thirds"):
        find(tmp_path, QUICK)
    write_heads(tmp_path, "sip", by_layer(EVEN), dataset_fingerprint="one")
    write_heads(tmp_path, "str", by_layer(EVEN), dataset_fingerprint="two")
    with pytest.raises(ResultsError, match=r"with other data under the same name \(dataset_fingerprint: sip one, str two\)"):
        find(tmp_path, QUICK)


def test_too_few_corruptions_or_samples_are_said_with_what_makes_more(tmp_path):
    with pytest.raises(ResultsError, match="no effects below"):
        find(tmp_path, QUICK)
    write_heads(tmp_path, "sip", by_layer(EVEN))
    with pytest.raises(
        ResultsError, match=r"only sip to compare; make another .*head_patching --model m --data data/d --out .* --corruption str"
    ):
        find(tmp_path, QUICK)
    write_heads(tmp_path, "str", by_layer(EVEN)[:1])
    with pytest.raises(ResultsError, match=r"str is left out: 1 sample\(s\) with an effect"):
        find(tmp_path, QUICK)
    with pytest.raises(ResultsError, match=r"no effects of model 'n' below .*; there are m$"):
        find(tmp_path, Comparing(model="n"))


@pytest.mark.parametrize("wrong", [{"metric": "kl"}, {"resamples": 0}, {"confined": 1.5}, {"confidence": 0.0}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(ResultsError, match=next(iter(wrong))):
        Comparing(**wrong)


def test_the_cut_is_written_with_layers_counted_from_0():
    found = compare(arrays({"sip": by_layer(EVEN)[:, :4], "str": by_layer(EVEN)[:, :4]}), QUICK)
    assert cut(found) == "0 | 1-2 | 3"
