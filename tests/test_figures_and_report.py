"""Figures and report of a results folder written by hand: what is drawn, what is said, what is said to be missing."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

from analysis import figures, head_functions, report, universal_heads
from analysis.drawing import ticks
from analysis.figures import one_of_each, telling_heads
from analysis.head_maps import marks
from analysis.module_maps import mean_by_role
from analysis.report_tables import left_out, number, runs
from analysis.results import ResultsError
from tests.synthetic_results import MULTIMODAL, TEXT, VISION, effects, write_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("report"))
    universal_heads.find_and_write(folder, universal_heads.Rule(permutations=50))
    head_functions.find_and_write(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(results) -> list[Path]:
    return figures.draw_all(results, samples=2)


@pytest.fixture(scope="module")
def page(results, drawn) -> str:
    return report.write_report(results).read_text(encoding="utf-8")


def prose(page: str) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)


class Wellformed(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a":
            self.links.add(given["href"])
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_figure_is_drawn_twice(results, drawn):
    names = sorted(str(path.relative_to(results / "figures")) for path in drawn)
    blip = ["attention-overlays", "sip-cross_attention-heads", "sip-modules", "str-cross_attention-heads", "str-modules"]
    llava = [name.replace("cross", "self") for name in blip]
    assert names == sorted([f"blip-small/shapes/{name}.png" for name in blip] + [f"llava-small/shapes/{name}.png" for name in llava])
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_drawing_leaves_the_style_alone_and_gives_the_same_bytes(results, drawn, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results / "blip-small" / "shapes" / "sip", copy / "blip-small" / "shapes" / "sip")
    before = dict(matplotlib.rcParams)
    first = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.draw_all(copy)}
    assert dict(matplotlib.rcParams) == before
    second = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.draw_all(copy)}
    assert first == second


def test_module_maps_average_over_samples_and_order_roles_by_place():
    logits = np.arange(12, dtype=float).reshape(2, 2, 3)
    found = mean_by_role(effects(logits, range(3), ["[CLS]", "noun", "noun"]))
    assert list(found["role"].values) == ["[CLS]", "noun"]
    np.testing.assert_allclose(found.values, np.stack([logits.mean(0)[:, 0], logits.mean(0)[:, 1:].mean(1)], axis=1) + 0)


def test_marks_name_universal_and_important_heads(results):
    universal = universal_heads.find(results, universal_heads.Rule(permutations=0))["blip-small"]
    assert marks(universal, "sip", "shapes") == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}
    universal["kind"][:] = "none"
    assert marks(universal, "sip", "shapes") == {VISION: "important", MULTIMODAL: "important"}
    assert marks(universal, "gaussian_noise", "shapes") == {}


def test_overlays_show_universal_heads_and_the_strongest_others(results):
    universal = universal_heads.find(results, universal_heads.Rule(permutations=0))["blip-small"]
    chosen = telling_heads(universal, 5)
    assert set(chosen[:3]) == {VISION, TEXT, MULTIMODAL}
    assert len(chosen) == len(set(chosen)) == 5
    assert one_of_each(np.array(["a", "a", "b", "a", "b"]), 3) == [0, 2, 1]


def test_ticks_stay_few():
    assert ticks(4) == [0, 1, 2, 3]
    assert ticks(32) == list(range(0, 32, 2))


def test_the_report_is_whole_and_self_contained(page):
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert {link.removeprefix("#") for link in parser.links} <= parser.ids
    assert page.count("data:image/png;base64,") == 10
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_report_says_what_was_found(page):
    text = prose(page)
    for part in (
        "L1.H2",
        "vision",
        "L0.H5",
        "multimodal",
        "object detection",
        "outlier suppression",
        "85.7",
        "options of unequal token length",
        "2 of 2",
    ):
        assert part in text, part
    assert "answered &lt;wrongly&gt;" in text
    assert "Attention is not causation" in text
    assert not re.search(r"\bnan\b|NaN|\binf\b|<td[^>]*>None<", text)


def test_the_report_says_what_was_not_run(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "llava-small" / "shapes" / "attention.nc").unlink()
    for path in (tmp_path / "llava-small" / "shapes" / "str").glob("*.nc"):
        if not path.name.endswith("-heads.nc"):
            path.unlink()
    unjudged = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "universal heads were not looked for" in unjudged
    universal_heads.find_and_write(tmp_path, universal_heads.Rule(permutations=0))
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "no image corruption was run, so a head named text may be multimodal" in text
    assert "whole modules were not patched under the str corruption" in text
    assert "attention maps were not collected" in text
    assert "The manifest records no answers" in text
    assert not re.search(r"\bnan\b|NaN", text)


def test_an_unfinished_run_is_named(tmp_path):
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text('{"runs": {"blip-small/shapes/sip/cross_attention-heads.nc": {"status": "stopped"}}}')
    (tmp_path / "blip-small" / "shapes" / "sip" / ".mlp.partial").mkdir(parents=True)
    text = prose(report.write_report(tmp_path).read_text(encoding="utf-8"))
    assert "blip-small/shapes/sip/cross_attention-heads.nc: stopped." in text
    assert "stopped (no file)" in text
    assert "blip-small/shapes/sip/mlp.nc: started, not finished." in text


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
    assert (row["corruption"], row["component"], row["samples"], row["seconds"], row["status"]) == (
        "clean run",
        "attention",
        "4",
        "2.0",
        "finished",
    )


@pytest.mark.parametrize("stage", [figures.draw_all, report.write_report])
def test_bad_folders_are_named(stage, tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        stage(tmp_path / "nothing")
    with pytest.raises(ResultsError, match=r"nothing to (draw|report) below"):
        stage(tmp_path)


def test_an_unknown_metric_and_a_broken_manifest_are_named(results, tmp_path):
    with pytest.raises(ResultsError, match="there is no metric 'kl'"):
        figures.draw_all(results, metric="kl")
    write_results(tmp_path, models=["blip-small"], corruptions=["str"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultsError, match=r"manifest.json is not JSON"):
        report.write_report(tmp_path)


def test_an_overlay_needs_no_mask(results, tmp_path):
    shutil.copytree(results / "blip-small", tmp_path / "blip-small")
    shutil.copy(results / "universal_heads.nc", tmp_path)
    path = tmp_path / "blip-small" / "shapes" / "attention.nc"
    with xr.open_dataset(path) as attention:
        changed = attention.load()
    changed["object_share"][:] = np.nan
    path.unlink()
    changed.to_netcdf(path)
    shutil.rmtree(tmp_path / "blip-small" / "shapes" / "sip")
    shutil.rmtree(tmp_path / "blip-small" / "shapes" / "str")
    assert [path.name for path in figures.draw_all(tmp_path, samples=1, heads=2)] == ["attention-overlays.png"]
