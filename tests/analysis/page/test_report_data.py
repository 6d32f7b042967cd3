"""What the report's plots, head pages and sample browser are made of, beside the files it was read from."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from analysis import head_functions, robust_heads, universal_heads
from analysis.functions.scores import mean_map, normalized
from analysis.heads.options import RobustRule
from analysis.page import heads as report_heads
from analysis.page import overlays as report_overlays
from analysis.page.data import Gathering, Limits
from analysis.page.encoding import MISSING, Pictures, packed, rounded
from analysis.page.samples import Listed, choose, facts, per_category
from analysis.page.tables import runs
from analysis.store.folder import ResultsError
from tests.support.synthetic_results import DETECTS, HEADS, MULTIMODAL, SAMPLES, TEXT, VISION, write_results
from tests.support.synthetic_results import effects as synthetic_effects


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=50))
    head_functions.write(folder)
    robust_heads.write(folder, RobustRule(permutations=50))
    return folder


@pytest.fixture(scope="module")
def data(results) -> dict:
    """As the page reads it."""
    return json.loads(json.dumps(Gathering(results, Limits()).run()))


def unpacked(map_: dict, shape: tuple[int, ...]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(map_["data"]), "<i2").astype(float)
    return (np.where(steps == MISSING, np.nan, steps) * map_["scale"]).reshape(shape)


def effects_of(results: Path, name: str) -> xr.Dataset:
    with xr.open_dataset(results / name) as dataset:
        return dataset.load()


def test_effects_by_task_have_the_means_and_intervals_of_robust_heads(results, data):
    robust = robust_heads.find(results, RobustRule(permutations=0))["blip-small"]
    effects = effects_of(results, "blip-small/shapes/sip/cross_attention-heads.nc").effects.logit_difference().isel(token=0)
    (study,) = (study for study in data["studies"] if study["model"] == "blip-small")
    of = next(run for run in study["corruptions"] if run["name"] == "sip")["tasks"]["shapes/colour"]
    colour = effects.isel(sample=effects["category"].values == "colour")
    assert of["samples"] == SAMPLES // 2
    np.testing.assert_allclose(of["mean"], colour.mean("sample").values.ravel(), rtol=1e-3)
    np.testing.assert_allclose(of["absolute"], abs(colour).mean("sample").values.ravel(), rtol=1e-3)
    for name in ("low", "high"):
        np.testing.assert_allclose(of[name], robust[name].sel(corruption="sip", task="shapes/colour").values.ravel(), rtol=1e-3)
    kinds = {at: study["notice"]["kind"][at[0] * HEADS + at[1]] for at in (VISION, TEXT, MULTIMODAL)}
    assert (
        kinds
        == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}
        == {at: study["robust"]["kind"][at[0] * HEADS + at[1]] for at in kinds}
    )
    assert set(study["detailed"][:3]) == {layer * HEADS + head for layer, head in kinds}
    assert study["functions"]["classes"]["function"][0][DETECTS[0] * HEADS + DETECTS[1]] == "object_detection"


def test_strongest_and_weakest_samples_are_those_of_the_file(results, data):
    effects = effects_of(results, "blip-small/shapes/sip/cross_attention-heads.nc").effects.logit_difference().isel(token=0)
    of_head = effects.isel(layer=VISION[0], head=VISION[1]).to_series().droplevel([]).sort_values()
    (study,) = (study for study in data["studies"] if study["model"] == "blip-small")
    found = study["extremes"][str(VISION[0] * HEADS + VISION[1])]["sip"]
    assert [sample for _, sample, _ in found["strongest"]] == of_head.index[::-1][: report_heads.EXTREMES].tolist()
    assert [sample for _, sample, _ in found["weakest"]] == of_head.index[: report_heads.EXTREMES].tolist()
    assert found["strongest"][0][2] == pytest.approx(of_head.iloc[-1], rel=1e-4)


def test_samples_have_their_probabilities_and_maps(results, data):
    place = next(place for place in data["places"] if place["model"] == "blip-small")
    row = next(row for row in place["rows"] if row["id"] == "s003")
    run = row["runs"]["sip"]
    np.testing.assert_allclose(run["p"], np.exp([0, -3, -4, -3]), rtol=1e-3)  # correct, incorrect of clean, then of corrupt: logits 5 2 1 2
    assert (run["ld"], row["correct_answer"], row["category"], row["correct_first"]) == ([3, -1], "red", "shape", False)
    heads = (
        effects_of(results, "blip-small/shapes/sip/cross_attention-heads.nc").effects.logit_difference().sel(sample="s003").values[..., 0]
    )
    np.testing.assert_allclose(unpacked(run["heads"]["cross_attention"], heads.shape), heads, atol=np.abs(heads).max() / 65534 * 1.01)
    whole = effects_of(results, "blip-small/shapes/sip/mlp.nc").sel(sample="s003")
    there = whole["token_role"].values != ""
    assert row["tokens"] == [*[[text, text] for text in whole["token_text"].values[there]][:-1], ["?", "?"]]
    mlp = whole.effects.logit_difference().values[:, there]
    np.testing.assert_allclose(unpacked(run["modules"]["mlp"], mlp.shape), mlp, atol=np.abs(mlp).max() / 65534 * 1.01)
    assert place["categories"] == {"colour": [12, 12], "shape": [12, 12]}


def test_module_maps_are_means_by_role_of_all_samples_and_of_each_order(results, data):
    whole = effects_of(results, "blip-small/shapes/str/block.nc")
    (found,) = (one for one in data["modules"] if (one["model"], one["corruption"], one["component"]) == ("blip-small", "str", "block"))
    first = whole["correct_first"].values
    for name, chosen in {"all": first | True, "correct first": first, "correct second": ~first}.items():
        assert found["samples"][name] == chosen.sum()
        shown = np.array(found["maps"][name], dtype=float).reshape(-1, len(found["roles"]))
        by_hand = whole.effects.logit_difference().values[chosen][:, :, whole["token_role"].values[0] == "noun"].mean(axis=(0, 2))
        np.testing.assert_allclose(shown[:, found["roles"].index("noun")], by_hand, rtol=1e-3)


def test_maps_are_packed_to_within_half_a_step():
    values = np.array([[1.5, -3.0, np.nan], [0.0, 2.999, -1e-6]])
    map_ = packed(values)
    assert map_["scale"] == pytest.approx(3 / 32767, rel=1e-5)
    np.testing.assert_allclose(unpacked(map_, values.shape), values, atol=map_["scale"] / 2 * 1.001)
    assert np.isnan(unpacked(packed(np.full(3, np.nan)), (3,))).all()
    assert unpacked(packed(np.zeros(2)), (2,)).tolist() == [0, 0]
    assert rounded([1.23456, np.inf, np.nan, -0.0004567]) == [1.235, None, None, -0.0004567]


def test_overlays_show_attention_in_multiples_of_an_even_share(results):
    path = results / "blip-small" / "shapes" / "attention.nc"
    head = DETECTS[0] * HEADS + DETECTS[1]
    seen, gallery = report_overlays.look(path, "shapes", [head], {head: {"s020"}, 0: {"s001"}})
    assert gallery == [f"shapes/s{i:03d}" for i in range(8)]
    assert {one.key: set(one.maps) for one in seen} == {key: {head} for key in gallery} | {"shapes/s001": {head, 0}, "shapes/s020": {head}}
    attention = effects_of(results, "blip-small/shapes/attention.nc")
    maps = normalized(attention["attention"].sel(sample="s020").values)
    one = next(one for one in seen if one.key == "shapes/s020")
    np.testing.assert_allclose(one.maps[head], 64 * maps[DETECTS])
    np.testing.assert_allclose(one.mean, 64 * mean_map(maps))

    pictures = Pictures()
    content = report_overlays.content(seen, gallery, pictures)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["maps"][head]["shapes/s020"]))))
    inside = attention["object_share"].sel(sample="s020").values.reshape(8, 8) >= 0.5
    assert pixels.shape == (8, 8, 4)
    assert pixels[inside][:, 3].min() > pixels[~inside][:, 3].max()  # the object's patches stand out
    about = content["samples"]["shapes/s020"]
    assert len(re.findall(r"M\d+ \d+[hv]1", about["outline"])) == 12  # the edges of 3 x 3 patches
    assert Image.open(io.BytesIO(base64.b64decode(pictures.uris[about["picture"]].split(",")[1]))).size == (64, 64)
    assert report_overlays.content([], [], pictures) is None


def test_the_first_of_each_category_come_first():
    assert report_overlays.first_of_each(["a", "a", "b", "a", "b"], 4) == [0, 2, 1, 4]


def test_as_many_samples_are_taken_as_fit():
    listed = Listed(dict(zip([f"s{i}" for i in range(60)], ["a"] * 40 + ["b"] * 20, strict=True)), size=1e4)

    def size(n: int) -> float:
        return 1e4 * (min(n, 40) + min(n, 20))

    for megabytes in (0.001, 0.1, 0.33, 0.5, 9):
        count = per_category([listed], 50, megabytes)
        assert count == max([n for n in range(1, 51) if size(n) <= megabytes * 1e6], default=1)
    assert choose(listed, 2, ["s30", "elsewhere"]) == ["s0", "s1", "s30", "s40", "s41"]


def test_what_a_large_folder_leaves_out_is_said(results, tmp_path):
    gathering = Gathering(results, Limits(samples=1, heads=2))
    data = gathering.run()
    study, place = data["studies"][0], data["places"][0]
    assert len(study["functions"]["scores"]["auroc"][0]) == len(study["overlays"]["maps"]) == 2
    kept = {row["id"] for row in place["rows"]}
    ends = [end for of in study["extremes"].values() for run in of.values() for end in run.values()]
    assert kept == {"s000", "s001"} | {sample for end in ends for _, sample, _ in end}
    said = " ".join(gathering.capped)
    assert f"blip-small/shapes: {len(kept)} of 24 samples are in the sample browser" in said
    assert "attention overlays and function scores of 2 of 24 heads" in said
    with pytest.raises(ResultsError, match="--heads is 0"):
        Limits(heads=0)


def test_pictures_are_those_of_the_data_set_where_it_is_still_there(tmp_path):
    from data_prep.scenes.table import make_shapes
    from data_prep.tables import schema as samples

    write_results(tmp_path, models=["blip-small"], corruptions=["sip", "str"])
    table = make_shapes(2, 0)
    samples.save(table, tmp_path / "data" / "made", {"name": "shapes"})
    ids = table["sample_id"][:2]
    paths = list((tmp_path / "blip-small").rglob("*.nc"))
    for path in paths:
        dataset = effects_of(path.parent, path.name).isel(sample=slice(0, 2))
        path.unlink()
        dataset.assign_coords(sample=np.array(ids, dtype=object)).to_netcdf(path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["data"]["shapes"]["folder"] = "/gone/made"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = Gathering(tmp_path, Limits()).run()
    for row, made in zip(data["places"][0]["rows"], table, strict=False):
        shown = [
            Image.open(io.BytesIO(base64.b64decode(data["pictures"][n].split(",")[1])))
            for n in (row["picture"], row["runs"]["sip"]["picture"])
        ]
        for picture, wanted in zip(shown, (made["clean_image"], made["corrupt_image"]), strict=True):
            assert np.abs(np.asarray(picture, dtype=float) - np.asarray(wanted, dtype=float)).mean() < 8
        assert "picture" not in row["runs"]["str"]

    for path in paths:
        dataset = effects_of(path.parent, path.name)
        path.unlink()
        dataset.assign_attrs(dataset_fingerprint="of other data").to_netcdf(path)
    gathering = Gathering(tmp_path, Limits())
    data = gathering.run()
    row = data["places"][0]["rows"][0]
    assert "picture" not in row["runs"]["sip"]
    seen = effects_of(tmp_path, "blip-small/shapes/attention.nc")["image"].values[0].astype(float)
    shown = Image.open(io.BytesIO(base64.b64decode(data["pictures"][row["picture"]].split(",")[1])))
    assert np.abs(np.asarray(shown, dtype=float) - seen).mean() < 8
    assert "The table made holds other data than shapes was run with" in " ".join(gathering.capped)


def test_noise_is_averaged_over_its_draws():
    effects = synthetic_effects(np.zeros((2, 1, 1)), [0], ["noun"]).expand_dims(draw=2, axis=1).copy(deep=True)
    clean = [name for name in effects.data_vars if name.startswith("clean_")]
    effects = effects.assign({name: effects[name].isel(draw=0) for name in clean})
    effects["corrupt_logit_correct"][:, 1] = 3.0
    of_sample = facts(effects)["s000"]
    assert of_sample["p"] == rounded([1, np.exp(-3), (np.exp(-4) + np.exp(-2)) / 2, np.exp(-3)])
    assert of_sample["ld"] == [3, 0]


def test_what_other_interventions_made_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["sip"])
    other = tmp_path / "blip-small" / "shapes" / "direct_effect.nc"
    xr.Dataset({"x": 1}).to_netcdf(other)
    gathering = Gathering(tmp_path, Limits())
    gathering.run()
    assert [line.split(": ")[1] for line in gathering.capped if line.startswith("Files of other")] == [
        "blip-small/shapes/direct_effect.nc. They open with xarray."
    ]
    named = {f"m/d/sip/{name}.nc": 1 for name in ("block-heads", "mlp-window3", "mlp-ablation")}
    assert {row["component"]: row["patched"] for row in runs(named, {})} == {
        "block": "heads",
        "mlp-window3": "whole modules",
        "mlp-ablation": "–",
    }


def test_heads_of_different_numbers_are_named(tmp_path):
    write_results(tmp_path, models=["blip-small"])
    path = tmp_path / "blip-small" / "shapes" / "str" / "cross_attention-heads.nc"
    fewer = effects_of(path.parent, path.name).isel(head=slice(0, 3))
    path.unlink()
    fewer.to_netcdf(path)
    with pytest.raises(ResultsError, match="blip-small/cross_attention have different layers or heads"):
        Gathering(tmp_path, Limits()).run()
