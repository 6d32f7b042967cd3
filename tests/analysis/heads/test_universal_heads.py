"""NOTICE's rule against a plain loop over numpy arrays, its boundary, the kinds, the files, and what bad input says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analysis.heads.notice import summary
from analysis.heads.rules import Evidence, kind_names, stand_out, universal
from analysis.stats.family_wise import family_wise_p
from analysis.store.folder import ResultsError, read_tree, write_whole
from analysis.universal_heads import UniversalHeads, find, write
from tests.support.synthetic_results import HEADS, LAYERS, MULTIMODAL, TEXT, VISION, effects, save, write_results

ROOT = Path(__file__).resolve().parents[3]
FAST = UniversalHeads(permutations=0)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return write_results(tmp_path_factory.mktemp("universal"))


def heads(values: np.ndarray, *leading: str) -> xr.DataArray:
    return xr.DataArray(values, dims=(*leading, "layer", "head"))


def test_the_boundary_counts_and_the_deviation_is_the_population_one():
    values = np.array([[0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 2.0]])  # mean 1, population SD 1, sample SD 1.069
    important, threshold = stand_out(values, deviations=1.0)
    assert float(threshold) == 2.0
    np.testing.assert_array_equal(important, values == 2.0)
    just_above, _ = stand_out(values, deviations=1.0 + 1e-9)
    assert not just_above.any()


def test_no_head_stands_out_where_all_are_equal():
    important, _ = stand_out(np.full((2, 3), 0.3))
    assert not important.any()
    assert not stand_out(np.zeros((2, 3)))[0].any()


def test_universal_is_every_task_that_ran():
    important = Evidence(np.array([[[[1, 1]], [[1, 0]]], [[[0, 1]], [[0, 0]]]], dtype=bool))
    ran = np.array([[True, True], [True, False]])
    np.testing.assert_array_equal(universal(important, ran), [[[True, False]], [[False, True]]])
    np.testing.assert_array_equal(universal(important, ran, at_least=1), [[[True, True]], [[False, True]]])
    np.testing.assert_array_equal(universal(important, ran, at_least=2), [[[True, False]], [[False, False]]])
    assert not universal(important, np.zeros_like(ran)).any()


def test_kinds_are_told_by_modality():
    heads = np.array([[[1, 0, 1, 0]], [[0, 1, 1, 0]]], dtype=bool)
    assert list(kind_names(heads, ["image", "text"])[0]) == ["vision", "text", "multimodal", "none"]
    assert list(kind_names(heads[1:], ["text"])[0]) == ["none", "text", "text", "none"]


def test_planted_heads_are_found(results):
    for dataset in find(results, FAST).values():
        named = {(int(a), int(b)): dataset["kind"].values[a, b] for a, b in np.argwhere(dataset["kind"].values != "none")}
        assert named == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}
    assert "llava-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0" in summary(find(results, FAST))


@pytest.mark.parametrize("metric", ["logit_difference", "restoration_probability", "normalized_effect"])
def test_the_rule_agrees_with_a_plain_loop(results, metric):
    found = find(results, UniversalHeads(metric=metric, deviations=1.5, permutations=0))["blip-small"]
    for corruption in ("sip", "str"):
        file = xr.open_dataset(results / "blip-small" / "shapes" / corruption / "cross_attention-heads.nc")
        correct, wrong, total = (file[name].values[..., 0].astype(float) for name in ("logit_correct", "logit_incorrect", "log_normalizer"))
        everywhere = np.ones((LAYERS, HEADS), dtype=bool)
        for category in ("colour", "shape"):
            mean = np.zeros((LAYERS, HEADS))
            rows = [i for i, name in enumerate(file["category"].values) if name == category]
            for i in rows:
                # the baselines written by synthetic_results: LD clean 3, LD corrupt -1, logits 2 for the incorrect answer, normaliser 5
                change = {
                    "logit_difference": correct[i] - wrong[i] + 1,
                    "restoration_probability": np.exp(correct[i] - total[i]) - np.exp(1 - 5),
                    "normalized_effect": (correct[i] - wrong[i] + 1) / 4,
                }[metric]
                mean += np.abs(change) / len(rows)
            limit = sum(mean.ravel()) / mean.size + 1.5 * (sum((mean.ravel() - mean.mean()) ** 2) / mean.size) ** 0.5
            one = found.sel(corruption=corruption, task=f"shapes/{category}")
            np.testing.assert_allclose(one["mean_absolute_effect"].values, mean, rtol=1e-6)
            np.testing.assert_allclose(float(one["threshold"]), limit, rtol=1e-6)
            np.testing.assert_array_equal(one["important"].values, mean >= limit)
            everywhere &= mean >= limit
        np.testing.assert_array_equal(found["universal"].sel(corruption=corruption).values, everywhere)
        file.close()


def test_a_head_that_lowers_the_answer_is_important_too(tmp_path):
    logits = np.zeros((6, 3, 4, 1))
    logits[:, 1, 1] = -2
    save(effects(logits, ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    found = find(tmp_path, FAST)["m"]
    assert found["kind"].values[1, 1] == "vision"
    assert float(found["mean_effect"].isel(layer=1, head=1).max()) == -2


def test_one_modality_alone_names_what_it_saw(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    found = find(tmp_path, FAST)["blip-small"]
    assert list(found["modality"].values) == ["text"]
    assert found["kind"].values[TEXT] == found["kind"].values[MULTIMODAL] == "text"


def test_only_the_named_corruptions_and_one_component_are_judged(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 3, 4, 1))
    for corruption in ("sip", "gaussian_noise"):
        for component in ("cross_attention", "self_attention"):
            data = effects(rows, ["correct"], ["correct"], corruption=corruption, component=component)
            save(data, tmp_path / "m" / "d" / corruption / f"{component}-heads.nc")
    assert list(find(tmp_path, FAST)["m"]["corruption"].values) == ["sip"]
    assert find(tmp_path, FAST)["m"].attrs["component"] == "cross_attention"
    noise = find(tmp_path, UniversalHeads(image_corruption="gaussian_noise", component="self_attention", permutations=0))["m"]
    assert (list(noise["corruption"].values), noise.attrs["component"]) == (["gaussian_noise"], "self_attention")


def test_a_sample_without_an_effect_is_left_out(tmp_path):
    logits = np.random.default_rng(0).normal(size=(8, 3, 4, 1))
    logits[3] = np.nan
    logits[5, 0, 0] = np.inf  # one head: the others' values count
    save(effects(logits, ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    found = find(tmp_path, FAST)["m"]
    assert list(found["samples"].sel(corruption="sip").values) == [4, 3]
    assert list(found["left_out"].sel(corruption="sip").values) == [0, 1]
    assert np.isfinite(found["mean_effect"].values).all()
    assert np.isfinite(found["threshold"].values).all()


def test_a_task_in_which_no_sample_has_an_effect_did_not_run(tmp_path):
    logits = np.random.default_rng(0).normal(size=(8, 3, 4, 1))
    logits[1::2] = np.nan
    save(effects(logits, ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    found = find(tmp_path, FAST)["m"].sel(corruption="sip")
    assert list(found["task"].values) == ["d/colour", "d/shape"]
    assert (list(found["samples"].values), list(found["left_out"].values)) == ([4, 0], [0, 4])
    np.testing.assert_array_equal(found["universal"].values, found["important"].sel(task="d/colour").values)


def test_a_head_may_be_asked_to_be_important_in_some_tasks_only(tmp_path):
    logits = np.zeros((9, 3, 4, 1))
    logits[[0, 3, 6, 1, 4, 7], 1, 1] = 1
    save(effects(logits, ["correct"], ["correct"], ("a", "b", "c")), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    kinds_ = {k: find(tmp_path, UniversalHeads(permutations=0, at_least=k))["m"]["kind"].values[1, 1] for k in (0, 1, 2, 3)}
    assert kinds_ == {0: "none", 1: "vision", 2: "vision", 3: "none"}


def test_the_files_hold_what_was_found(results):
    found = write(results, UniversalHeads(permutations=50)).data
    back = read_tree(results / "universal_heads.nc")
    for model, dataset in found.items():
        xr.testing.assert_equal(back[model], dataset)
        assert back[model].attrs["token"] == {"blip-small": "correct", "llava-small": "last"}[model]
    rows = pd.read_csv(results / "universal_heads.csv")
    assert list(rows[rows.model == "blip-small"].name) == ["L1.H2", "L0.H5", "L3.H0"]
    vision = rows[(rows.model == "blip-small") & (rows.kind == "vision")].iloc[0]
    assert (vision.sip_tasks_important, vision.sip_tasks, vision.str_tasks_important) == (2, 2, 0)
    assert vision.sip_mean_effect == pytest.approx(1, abs=0.1)
    before = [(results / f"universal_heads.{suffix}").read_bytes() for suffix in ("nc", "csv")]
    write(results, UniversalHeads(permutations=50))
    assert [(results / f"universal_heads.{suffix}").read_bytes() for suffix in ("nc", "csv")] == before


def test_no_important_head_gives_a_table_of_headings(tmp_path):
    save(effects(np.zeros((4, 2, 2, 1)), ["correct"], ["correct"]), tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc")
    write(tmp_path, FAST)
    assert (tmp_path / "universal_heads.csv").read_text().strip() == "model,component,layer,head,name,kind"


def test_chance_names_a_head_in_at_most_about_5_percent_of_nulls():
    generator = np.random.default_rng(1)
    null = [family_wise_p([heads(np.abs(generator.normal(size=(12, 3, 4))), "sample")], 60, seed).values.min() for seed in range(100)]
    assert np.mean(np.array(null) <= 0.05) <= 0.1  # 10 of 100 is more than 2 binomial standard errors above 5
    special = np.abs(generator.normal(size=(12, 3, 4)))
    special[:, 1, 2] += 3
    p = family_wise_p([heads(special, "sample")], 60, 0).values
    assert p[1, 2] == pytest.approx(1 / 61)
    assert (np.delete(p.ravel(), 6) > 0.05).all()
    plain = np.abs(generator.normal(size=(12, 3, 4)))
    tasks = [heads(task, "sample") for task in (special, plain, special)]
    assert family_wise_p(tasks, 60, 0, at_least=2).values[1, 2] == pytest.approx(1 / 61)
    assert family_wise_p(tasks, 60, 0).values[1, 2] > 0.05


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "kl"}, "there is no metric 'kl'; choose one of logit_difference"),
        ({"token": "last"}, r"no effects of heads at token 'last'; it has correct: choose one with --token"),
        ({"component": "mlp"}, "no effects of heads for sip or str, component mlp"),
        ({"image_corruption": "str"}, "both 'str'; name two different ones"),
        ({"at_least": 3}, "blip-small has 2 tasks under sip, fewer than --at-least 3"),
        ({"at_least": -1}, "a head cannot be asked to be important in -1 tasks"),
    ],
)
def test_bad_options_are_named(results, rule, message):
    with pytest.raises(ResultsError, match=message):
        find(results, UniversalHeads(**rule))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ResultsError, match=r"no results folder at .*: make it with"):
        find(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="no effects of heads"):
        find(tmp_path)
    broken = tmp_path / "m" / "d" / "sip" / "cross_attention-heads.nc"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a file of effects")
    with pytest.raises(ResultsError, match=r"cross_attention-heads.nc is damaged, or not a NetCDF4 file. Delete it"):
        find(tmp_path)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_script_runs_from_any_folder_and_says_what_is_wrong(results, tmp_path):
    script = [sys.executable, str(ROOT / "analysis" / "universal_heads.py")]
    done = subprocess.run(
        [*script, "--results", str(results), "--permutations", "0"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "blip-small: vision: L1.H2; text: L0.H5; multimodal: L3.H0" in done.stdout
    failed = subprocess.run([*script, "--results", "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("universal_heads: no results folder at")
    assert "Traceback" not in failed.stderr


def test_analysis_imports_no_model_libraries():
    """Every module of the analysis, with these libraries blocked, also where one would be imported and its absence be caught."""
    forbidden = ("torch", "nnsight", "transformers", "datasets")
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "analysis").rglob("*.py")]
    assert len(modules) > 60
    program = f"""
import importlib, sys

class Blocked:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden}:
            self.asked.append(name)
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
for name in {modules}:
    importlib.import_module(name)
print(Blocked.asked)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
