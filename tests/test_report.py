"""The report of a results folder written by hand: what is said, what is embedded, what is said to be missing."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from analysis import head_functions, report, report_csv, report_heads, report_overlays, robust_heads, universal_heads
from analysis.head_scores import mean_map, normalized
from analysis.report_data import Gathering, Limits
from analysis.report_encoding import MISSING, Pictures, packed, rounded
from analysis.report_samples import Listed, choose, facts, per_category
from analysis.report_tables import left_out, number, runs
from analysis.results import ResultsError
from analysis.robust_rule import RobustRule
from tests.synthetic_results import DETECTS, HEADS, MULTIMODAL, SAMPLES, TEXT, VISION, write_results
from tests.synthetic_results import effects as synthetic_effects

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.find_and_write(folder, universal_heads.Rule(permutations=50))
    head_functions.find_and_write(folder)
    robust_heads.find_and_write(folder, RobustRule(permutations=50))
    return folder


@pytest.fixture(scope="module")
def page(results) -> str:
    return report.write_report(results).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(page) -> dict:
    return embedded(page)


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.S)[1])


def prose(page: str) -> str:
    """The page without its scripts and styles."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.S)


def unpacked(map_: dict, shape: tuple[int, ...]) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(map_["data"]), "<i2").astype(float)
    return (np.where(steps == MISSING, np.nan, steps) * map_["scale"]).reshape(shape)


def effects_of(results: Path, name: str) -> xr.Dataset:
    with xr.open_dataset(results / name) as dataset:
        return dataset.load()


class Wellformed(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "a":
            self.links.add(given["href"])
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_whole_and_self_contained(page, data):
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    heads = {f"#{study['id']}/{name}" for study in data["studies"] for name in study["names"]}
    links = {unquote(link) for link in parser.links}
    assert {link for link in links if "/" in link} <= heads
    assert {link.removeprefix("#") for link in links if "/" not in link} <= set(parser.ids)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", prose(page))
    own = "".join((report.PAGE / name).read_text() for name in (*report.SCRIPTS, "style.css"))
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|@import|url\(", own)
    assert 'name="viewport"' in page


def test_the_report_says_what_was_found(page):
    text = prose(page)
    parts = ("L1.H2", "vision", "L0.H5", "multimodal", "object detection", "85.7", "options of unequal token length", "2 of 2")
    for part in (*parts, "answered &lt;wrongly&gt;", "Attention is not causation", "Heads of blip-small that are universal by either rule"):
        assert part in text, part
    assert not re.search(r"\bnan\b|NaN|\binf\b|<td[^>]*>None<", text)


def test_the_report_says_what_was_not_run_and_what_makes_it(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "llava-small" / "shapes" / "attention.nc").unlink()
    for path in (tmp_path / "llava-small" / "shapes" / "str").glob("*.nc"):
        if not path.name.endswith("-heads.nc"):
            path.unlink()
    unjudged = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "universal heads were not looked for" in unjudged
    for module in ("universal_heads", "robust_heads", "head_functions", "compare_corruptions", "stability", "paper_claims", "modules"):
        assert f"python -m analysis.{module}" in unjudged
    universal_heads.find_and_write(tmp_path, universal_heads.Rule(permutations=0))
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "no image corruption was run, so a head named text may be multimodal" in text
    assert "whole modules were not patched under the str corruption" in text
    assert "attention maps were not collected" in text
    assert "The manifest records no answers" in text
    assert "the table of the data set shapes is not where the manifest says" in text.lower()
    assert not re.search(r"\bnan\b|NaN", text)


def test_an_unfinished_run_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text('{"runs": {"blip-small/shapes/sip/cross_attention-heads.nc": {"status": "stopped"}}}')
    (tmp_path / "blip-small" / "shapes" / "sip" / ".mlp.partial").mkdir(parents=True)
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "blip-small/shapes/sip/cross_attention-heads.nc: stopped." in text
    assert "stopped (no file)" in text
    assert "blip-small/shapes/sip/mlp.nc: started, not finished." in text


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
    from data_prep import samples, shapes

    write_results(tmp_path, models=["blip-small"], corruptions=["sip", "str"])
    table = shapes.make_shapes(2, 0)
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


def test_tables_of_other_analyses_are_shown_whatever_their_columns(tmp_path):
    rows = {"model": ["a", "b", "c"], "share": [0.5, 1.25e-5, 3], "share_low": [0.4, 0, 2], "share_high": [0.6, 1e-4, 4.5]}
    rows |= {"ok": [True, False, True], "empty": [None] * 3, "same": ["x"] * 3}
    pd.DataFrame(rows).to_csv(tmp_path / "made.csv", index=False)
    table = report_csv.read_table(tmp_path / "made.csv", rows=2)
    assert [column["name"] for column in table["columns"]] == ["model", "share", "ok"]
    assert [[cell["text"] for cell in row] for row in table["rows"]] == [
        ["a", "0.500 [0.400, 0.600]", "yes"],
        ["b", "1.25e−05 [0, 0.000100]", "no"],
    ]
    assert (table["total"], table["same"], table["rows"][0][1]["value"]) == (3, [("same", "x")], 0.5)
    assert report_csv.read_table(tmp_path / "none.csv") is None
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\x01,\x80")
    with pytest.raises(ResultsError, match=r"bad\.csv is not a CSV that can be read"):
        report_csv.read_table(tmp_path / "bad.csv")


def test_claims_are_shown_with_their_tests(results, tmp_path):
    claim = {
        "paper": "NOTICE",
        "source": "table 1",
        "says": "heads <i>exist</i>",
        "model": "m",
        "dataset": "",
        "setting": "",
        "test": "counting",
    }
    rows = [claim | {"result": "not run", "note": "no heads", "command": "run it"}, claim | {"result": "holds", "figure": "3 of 4"}]
    path = results / "paper_claims.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    try:
        text = prose(report.write_report(results).read_text(encoding="utf-8"))
    finally:
        path.unlink()
    assert "heads &lt;i&gt;exist&lt;/i&gt;" in text
    assert re.search(r'class="verdict holds">holds<.*?3 of 4.*?1 claims not run.*?no heads', text, re.S)
    pd.DataFrame([{"model": "m", "dataset": "d", "component": "mlp", "row": "claim", "claim": "undecided"}]).to_csv(tmp_path / "c.csv")
    assert report_csv.noise_claims(tmp_path / "c.csv") == [{"of": "m, d, mlp", "claim": "undecided"}]


def test_noise_is_averaged_over_its_draws():
    effects = synthetic_effects(np.zeros((2, 1, 1)), [0], ["noun"]).expand_dims(draw=2, axis=1).copy(deep=True)
    clean = [name for name in effects.data_vars if name.startswith("clean_")]
    effects = effects.assign({name: effects[name].isel(draw=0) for name in clean})
    effects["corrupt_logit_correct"][:, 1] = 3.0
    of_sample = facts(effects)["s000"]
    assert of_sample["p"] == rounded([1, np.exp(-3), (np.exp(-4) + np.exp(-2)) / 2, np.exp(-3)])
    assert of_sample["ld"] == [3, 0]


def test_the_other_direction_is_said(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["sip"])
    (tmp_path / "blip-small" / "shapes" / "sip").rename(tmp_path / "blip-small" / "shapes" / "sip-noising")
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert "corrupt states were put into the clean run" in prose(page)
    assert [run["name"] for run in embedded(page)["studies"][0]["corruptions"]] == ["sip-noising"]


def test_text_from_the_data_cannot_end_the_script():
    text = report._json({"a": "</script><b>\u2028", "b": [1.5, None]})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><b>\u2028", "b": [1.5, None]}


def test_numbers_are_never_raw():
    assert [number(v) for v in (float("nan"), None, "x", float("-inf"))] == ["–", "–", "–", "−∞"]
    assert [number(v, "+.3f") for v in (0.25, -0.25, -0.0001)] == ["+0.250", "−0.250", "0.000"]
    assert number(np.int64(3), "d") == "3"


def test_samples_left_out_are_counted_once_by_reason():
    entries = [{"sample": f"s{i}", "reason": "black"} for i in range(7)] + [{"sample": "t"}]
    rows = left_out({"data": {"shapes": {"left_out": entries}}})
    assert [(row["reason"], row["count"]) for row in rows] == [("black", "7"), ("no reason given", "1")]
    assert rows[0]["samples"] == "s0, s1, s2, s3, s4, …"
    wrong = [
        {"sample": "a", "reason": "the model answers 'red', not 'blue'"},
        {"sample": "b", "reason": "the model answers 'blue', not 'red'"},
    ]
    (row,) = left_out({"runs": {"m/d/sip/mlp.nc": {"left_out": wrong}, "m/d/str/mlp.nc": {"left_out": wrong[:1]}, "m/d/attention.nc": {}}})
    assert row == {"place": "m, d", "reason": "the model answers …, not …", "count": "2", "samples": "a, b"}


def test_attention_is_among_the_runs():
    (row,) = runs({"m/d/attention.nc": 4}, {"runs": {"m/d/attention.nc": {"status": "finished", "samples": 4, "seconds": 2}}})
    assert (row["corruption"], row["component"], row["samples"]) == ("clean run", "attention", "4")
    assert (row["seconds"], row["status"]) == ("2.0", "finished")


def test_the_script_runs_from_any_folder_and_says_what_is_wrong(results, tmp_path, monkeypatch):
    script = [sys.executable, str(ROOT / "analysis" / "report.py")]
    done = subprocess.run([*script, "--results", str(results), "--samples", "3"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {results / 'report.html'} (")
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="report: no results folder at"):
        report.main()


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        report.write_report(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="nothing to report below"):
        report.write_report(tmp_path)


def test_heads_of_different_numbers_are_named(tmp_path):
    write_results(tmp_path, models=["blip-small"])
    path = tmp_path / "blip-small" / "shapes" / "str" / "cross_attention-heads.nc"
    fewer = effects_of(path.parent, path.name).isel(head=slice(0, 3))
    path.unlink()
    fewer.to_netcdf(path)
    with pytest.raises(ResultsError, match="blip-small/cross_attention have different layers or heads"):
        report.write_report(tmp_path)


def test_a_broken_manifest_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match=r"manifest.json is not JSON"):
        report.write_report(tmp_path)
