"""Figures of a results folder written by hand: all that is drawn, what the drawings show, and how they come out in print."""

import importlib.util
import re
import shutil
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis import compare_corruptions, figures, head_functions, modules, robust_heads, stability, universal_heads
from analysis.figures import NOT_DRAWN
from analysis.heads.head_effects import read_head_effects
from analysis.heads.options import HeadEffectsOptions
from analysis.heads.power import power
from analysis.plots import ablation as figure_ablation
from analysis.plots import attention as figure_attention
from analysis.plots import curves as figure_curves
from analysis.plots import every
from analysis.plots import functions as figure_functions
from analysis.plots import gradients as figure_gradients
from analysis.plots import overlap as figure_overlap
from analysis.plots import tasks as figure_tasks
from analysis.plots.head_maps import marks
from analysis.plots.module_maps import mean_by_role
from analysis.plots.style import LINES, ONE_COLUMN, PAGE, SEQUENTIAL, TWO_COLUMNS, fit, mark_negative, ticks
from analysis.products import missing
from analysis.store.folder import ResultsError, read_tree, write_tree
from analysis.store.tables import write_table
from tests.support import synthetic_interventions as made
from tests.support.synthetic_results import (
    MULTIMODAL,
    TEXT,
    VISION,
    attention_dataset,
    effects,
    object_masks,
    planted_attention,
    write_results,
)

MODEL = "blip-small"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder in which there is everything to draw."""
    folder = write_results(tmp_path_factory.mktemp("figures"), models=[MODEL])
    for path in (folder / MODEL / "shapes").glob("s*/*.nc"):
        if not path.name.endswith("-heads.nc") and (path.parent.name, path.name) != ("sip", "mlp.nc"):
            path.unlink()
    made.write_interventions(folder / MODEL / "shapes")
    universal_heads.write(folder, universal_heads.UniversalHeads(permutations=50))
    rule = robust_heads.RobustHeads(permutations=50, resamples=100)
    robust_heads.write(folder, rule)
    stability.write(folder, stability.Stability(repeats=5))
    head_functions.write(folder)
    simulated = power(read_head_effects(folder, HeadEffectsOptions())[MODEL], rule, sizes=(0.0, 0.5, 1.0), samples=(8, 16), runs=3)
    write_table(simulated, folder / "robust_power.csv")
    write_tree(compare_corruptions.find(folder, compare_corruptions.CompareCorruptions(resamples=50)), folder / "compare_corruptions.nc")
    write_tree(modules.find(folder), folder / "modules.nc")
    return folder


@pytest.fixture(scope="module")
def drawn(results) -> list[Path]:
    return list(figures.write(results, figures.Figures(samples=2)).paths)


@pytest.fixture(scope="module")
def robust(results) -> xr.Dataset:
    return read_tree(results / "robust_heads.nc")[MODEL]


@pytest.fixture(scope="module")
def universal(results) -> xr.Dataset:
    return read_tree(results / "universal_heads.nc")[MODEL]


def test_everything_is_drawn_twice(results, drawn):
    of_data = ["sip-modules", "sip-cross_attention-heads", "str-cross_attention-heads", "attention-overlays", "attention-means"]
    of_data += ["modules-mlp", "sip-cross_attention-ablation", "sip-cross_attention-attribution", "attention_knockout", "direct_effect"]
    of_data += ["compare-cross_attention-heads", "compare-cross_attention-heads-by-layer"]
    of_model = ["heads-by-task", "head-functions", "head-intervals", "overlap-heads", "overlap-matrix", "stability", "power"]
    wanted = [f"{MODEL}/shapes/{name}.png" for name in of_data] + [f"{MODEL}/{name}.png" for name in of_model]
    assert sorted(str(path.relative_to(results / "figures")) for path in drawn) == sorted(wanted)
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert missing(results) == []
    assert (results / "figures" / NOT_DRAWN).read_text() == "everything was drawn\n"


def test_what_an_analysis_has_just_drawn_is_kept_and_else_drawn_again(results, drawn, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    at_first = dict(every._side_by_side(tmp_path / "results"))
    assert len(at_first) == 3
    assert set(at_first.values()) == {None}
    (tmp_path / "results" / "modules.nc").touch()
    (tmp_path / "results" / "figures" / MODEL / "shapes" / "compare-cross_attention-heads.pdf").unlink()
    again = [name for name, figure in every._side_by_side(tmp_path / "results") if figure is not None]
    assert again == [f"{MODEL}/shapes/modules-mlp", f"{MODEL}/shapes/compare-cross_attention-heads"]


def test_what_is_older_than_the_effects_is_not_drawn_but_named_with_what_makes_it(results, tmp_path):
    folder = tmp_path / "results"
    (folder / MODEL / "shapes").mkdir(parents=True)
    for name in ("universal_heads.nc", "robust_heads.nc", "modules.nc"):
        shutil.copy(results / name, folder)
    shutil.copytree(results / MODEL / "shapes" / "sip", folder / MODEL / "shapes" / "sip", copy_function=shutil.copy)
    drawn = {path.stem for path in figures.write(folder, figures.Figures(samples=1)).paths}
    assert not drawn & {"heads-by-task", "head-intervals", "modules-mlp"}
    said = (folder / "figures" / NOT_DRAWN).read_text()
    made_with = {"universal_heads": " --permutations 50", "robust_heads": " --permutations 50 --resamples 100", "modules": ""}
    for name, options in made_with.items():
        (line,) = (line for line in said.splitlines() if f"({name}.nc is older than what it is made of)" in line)
        command, _, more = line.partition(f" --results {folder}")
        assert command.endswith(f"python -m analysis.{name}")
        assert sorted(more.split()) == sorted(options.split())
        (folder / f"{name}.nc").touch()
    assert {path.stem for path in figures.write(folder, figures.Figures(samples=1)).paths} >= {
        "heads-by-task",
        "head-intervals",
        "modules-mlp",
    }


def test_pdfs_are_as_wide_as_columns_with_true_type_fonts_embedded(drawn):
    for path in drawn:
        pdf = path.with_suffix(".pdf").read_bytes()
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
        whole = pdf + b"".join(zlib.decompress(s) for s in streams if s[:1] == b"\x78" and len(s) < 200_000)
        width, height = (float(x) / 72 for x in re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", whole).groups())
        assert min(abs(width - ONE_COLUMN), abs(width - TWO_COLUMNS)) < 0.01, path.name
        assert height <= PAGE + 0.01
        assert b"/FontFile2" in whole
        assert b"/Type3" not in whole


def test_what_has_no_file_is_named_with_a_command_that_exists(tmp_path):
    write_results(tmp_path, models=["llava-small"], corruptions=["str"])
    found = {one.what: one.command for one in missing(tmp_path)}
    assert set(found) == {
        *(f"llava-small, shapes, {what}" for what in ("ablation curves", "attribution beside exact effects", "knockout curves")),
        *("llava-small, shapes, direct effects", "heads by task, attention overlays", "effects of heads with intervals, overlap of heads"),
        *(
            "stability curves",
            "functions of heads",
            "power curves",
            "module maps by corruption and order of the options",
            "comparison of corruptions",
        ),
    }
    for command in found.values():
        module = re.match(r"python -m ([\w.]+) .*(--out|--results) ", command).group(1)
        assert importlib.util.find_spec(module) is not None
        assert str(tmp_path) in command
    path = tmp_path / "llava-small" / "shapes" / "str" / "block.nc"
    with xr.open_dataset(path) as opened:
        block = opened.load()
    block.assign_attrs(configuration='{"samples": 20, "seed": 0}').to_netcdf(path)
    found = {one.what: one.command for one in missing(tmp_path)}
    assert found["llava-small, shapes, knockout curves"].endswith(f"--out {tmp_path} --samples 20 --corruption str")


def test_drawing_leaves_the_style_alone_and_gives_the_same_bytes(results, tmp_path):
    copy = tmp_path / "copy"
    (copy / MODEL / "shapes" / "sip").mkdir(parents=True)
    shutil.copy(results / MODEL / "shapes" / "sip" / "mlp.nc", copy / MODEL / "shapes" / "sip")
    before = dict(matplotlib.rcParams)
    first = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.write(copy).paths}
    assert dict(matplotlib.rcParams) == before
    second = {path.name: (path.read_bytes(), path.with_suffix(".pdf").read_bytes()) for path in figures.write(copy).paths}
    assert list(first) == ["sip-modules.png"]
    assert first == second


def test_lines_are_told_apart_in_grey_and_maps_by_lightness():
    assert len({str(look["marker"]) for look in LINES}) == len({str(look["linestyle"]) for look in LINES}) == len(LINES)
    lightness = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 1, 64))[:, :3] @ (0.299, 0.587, 0.114)
    assert (np.diff(lightness) > 0).all()
    assert len({to_rgb(look["color"]) for look in LINES}) == len(LINES)


def test_cells_below_zero_are_marked():
    axes = Figure().subplots()
    assert mark_negative(axes, np.array([[1.0, -0.5, -0.05], [0.0, np.nan, -0.9]]))
    (points,) = axes.collections
    assert sorted(map(tuple, points.get_offsets().astype(int).tolist())) == [(1, 0), (2, 1)]
    assert not mark_negative(axes, np.array([[1.0, -0.05]]))


def test_titles_are_broken_to_the_width_and_figures_to_columns():
    figure = Figure(figsize=(12, 6))
    figure.suptitle("word " * 60)
    fit(figure)
    assert figure.get_size_inches().tolist() == pytest.approx([TWO_COLUMNS, 6 * (TWO_COLUMNS / 12) ** 0.5])
    assert max(map(len, figure.get_suptitle().split("\n"))) <= TWO_COLUMNS * 15
    narrow = Figure(figsize=(2, 20))
    narrow.suptitle("llava-shapes, shapes, self-attention heads at 'last'\nwhere the effect is")
    fit(narrow)
    assert narrow.get_suptitle().split("\n") == ["llava-shapes, shapes,", "self-attention heads at 'last'", "where the effect is"]
    assert narrow.get_size_inches().tolist() == [ONE_COLUMN, PAGE]


def test_module_maps_average_over_samples_and_order_roles_by_place():
    logits = np.arange(12, dtype=float).reshape(2, 2, 3)
    found = mean_by_role(effects(logits, range(3), ["[CLS]", "noun", "noun"]))
    assert list(found["role"].values) == ["[CLS]", "noun"]
    np.testing.assert_allclose(found.values, np.stack([logits.mean(0)[:, 0], logits.mean(0)[:, 1:].mean(1)], axis=1) + 0)


def test_marks_name_universal_and_important_heads(universal):
    universal = universal.copy(deep=True)
    assert marks(universal, "sip", "shapes") == {VISION: "vision", TEXT: "text", MULTIMODAL: "multimodal"}
    universal["kind"][:] = "none"
    assert marks(universal, "sip", "shapes") == {VISION: "important", MULTIMODAL: "important"}
    assert marks(universal, "gaussian_noise", "shapes") == {}


def test_overlays_show_universal_heads_and_the_strongest_others(universal):
    chosen = every.telling_heads(universal, 5)
    assert set(chosen[:3]) == {VISION, TEXT, MULTIMODAL}
    assert len(chosen) == len(set(chosen)) == 5
    assert every.one_of_each(np.array(["a", "a", "b", "a", "b"]), 3) == [0, 2, 1]


def test_ticks_stay_few():
    assert ticks(4) == [0, 1, 2, 3]
    assert ticks(32) == list(range(0, 32, 2))


def test_maps_by_task_outline_the_important_heads_and_are_in_thresholds(universal):
    axes = [a for a in figure_tasks.draw_thresholds(universal).axes if a.images]
    assert [a.get_title().split("\n")[0] for a in axes] == ["sip, colour", "sip, shape", "str, colour", "str, shape"]
    for panel, at in zip(axes, [(c, t) for c in ("sip", "str") for t in ("shapes/colour", "shapes/shape")], strict=True):
        of = universal.sel(corruption=at[0], task=at[1])
        shown = panel.images[0].get_array()
        np.testing.assert_allclose(shown, of["mean_absolute_effect"] / of["threshold"])
        outlined = {(round(p.get_y() + 0.45), round(p.get_x() + 0.45)) for p in panel.patches}
        assert (
            outlined
            == {(int(y), int(x)) for y, x in np.argwhere(shown >= 1)}
            == {(int(y), int(x)) for y, x in np.argwhere(of["important"].values)}
        )


def test_intervals_show_the_named_heads_first_and_their_means(robust):
    assert set(figure_tasks.strongest(robust, 3)) == {VISION, TEXT, MULTIMODAL}
    figure = figure_tasks.draw_intervals(robust, most=4)
    heads = figure_tasks.strongest(robust, 4)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[heads.index(MULTIMODAL)] == "L3.H0 (multimodal)"
    for axes, corruption in zip(figure.axes, ("sip", "str"), strict=True):
        drawn_means = {c.get_label(): c.lines[0].get_xdata() for c in axes.containers}
        of = robust.sel(corruption=corruption)
        np.testing.assert_allclose(drawn_means["colour"], [of["mean_effect"].sel(task="shapes/colour").values[at] for at in heads])
        np.testing.assert_allclose(drawn_means["mean of tasks"], [of["overall_effect"].values[at] for at in heads])


def test_overlap_shows_each_set_and_chance(results, robust):
    overlap = pd.read_csv(results / "robust_overlap.csv")
    figure = figure_overlap.draw_heads(robust, overlap)
    dots, bars = figure.axes
    points = dict(zip(("positive", "negative", "notice"), [c.get_offsets() for c in dots.collections], strict=True))
    assert len(points["positive"]) + len(points["negative"]) == int(robust["important"].sum())
    assert len(points["notice"]) == int(robust["selected"].sum())
    names = [label.get_text() for label in dots.get_xticklabels()]
    assert names[0] == "L3.H0"  # in all four sets
    together = overlap[overlap["compared"] == "tasks together"]
    assert sorted(patch.get_height() for patch in bars.patches) == sorted(together["shared"])
    matrix = figure_overlap.draw_matrix(robust, overlap)
    pairs = overlap[(overlap["rule"] == "robust") & overlap["compared"].isin(("two tasks", "two corruptions"))]
    shown = np.ma.filled(matrix.axes[1].images[0].get_array(), np.nan)
    np.testing.assert_allclose(sorted(shown[np.isfinite(shown)]), sorted(pairs["jaccard"].dropna()))


def test_stability_and_power_curves_are_those_of_the_files(results):
    of_model = read_tree(results / "stability.nc")[MODEL]
    axes = figure_curves.draw_stability(of_model, MODEL).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "NOTICE's rule"]
    np.testing.assert_allclose(line.get_ydata(), of_model["rank_correlation"].sel(rule="notice", corruption="sip").mean("task"))
    rows = pd.read_csv(results / "robust_power.csv")
    axes = figure_curves.draw_power(rows).axes[0]
    for samples, line in zip((8, 16), axes.lines, strict=True):
        of = rows[(rows["samples"] == samples) & (rows["size"] > 0)]
        np.testing.assert_allclose((line.get_xdata(), line.get_ydata()), (of["size"], of["power"]))


def test_ablation_curves_are_faithfulness_of_ranked_and_random_sets():
    axes = figure_ablation.draw_ablation(made.ablation()).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines["highest-ranked kept alone"], [0, 1, 1])
    np.testing.assert_allclose(lines["highest-ranked knocked out"], [1, 0, 0])
    np.testing.assert_allclose(lines["random sets kept alone"], [0, 1.1 / 4, 1], atol=1e-6)
    without = figure_ablation.draw_ablation(made.ablation(random_sets=0)).axes[0]
    assert not any("random" in str(line.get_label()) for line in without.lines)


def test_knockout_curves_are_relative_changes():
    axes = figure_ablation.draw_knockout(made.knockout()).axes
    lines = {panel.get_title(): panel.lines[-1].get_ydata() for panel in axes if panel.lines}
    np.testing.assert_allclose(lines["to last"], [0, -0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(lines["to question"], 0, atol=1e-6)


def test_estimates_stand_beside_exact_effects_of_the_cells_that_were_patched():
    dataset = made.attribution()
    axes = figure_gradients.draw_attribution(dataset).axes[0]
    points = axes.collections[0].get_offsets()
    assert len(points) == int(np.isfinite(dataset["logit_correct"]).sum()) == dataset["logit_correct"].size // 2
    np.testing.assert_allclose(points[:, 1], 0.9 * points[:, 0], atol=1e-5)
    assert "ρ = 1.00" in axes.get_title()
    nothing = dataset.copy(deep=True)
    nothing["logit_correct"][:] = np.nan
    assert figure_gradients.draw_attribution(nothing) is None


def test_direct_effects_and_the_logit_lens():
    figure = figure_gradients.draw_direct(made.direct())
    assert "sum to 4.40 logits" in figure.get_suptitle()
    bars = [patch.get_width() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(bars, 0.5)
    np.testing.assert_allclose(figure.axes[2].lines[0].get_xdata(), 1.1 * np.arange(1, 5))


def test_mean_maps_are_those_of_a_loop_over_samples():
    masks = object_masks(6)
    attention = attention_dataset(planted_attention(np.random.default_rng(0), masks), masks)
    mean, maps, samples = figure_attention.mean_maps(attention, [VISION, TEXT])
    values = attention["attention"].values.astype("float64")
    slow, of_text = np.zeros(values.shape[-1]), np.zeros(values.shape[-1])
    for sample in values:
        heads = [head / head.sum() for layer in sample for head in layer]
        slow += np.mean(heads, axis=0) * len(slow) / len(values)
        of_text += sample[TEXT] / sample[TEXT].sum() * len(slow) / len(values)
    assert samples == 6
    np.testing.assert_allclose(mean, slow, rtol=1e-5)
    np.testing.assert_allclose(maps[1], of_text, rtol=1e-5)


def test_functions_are_counted_and_universal_heads_named(results, universal):
    functions = read_tree(results / "head_functions.nc")[MODEL]
    left, right = figure_functions.draw(functions, universal).axes
    assert {text.get_text() for text in left.texts} == {"L1.H2", "L0.H5", "L3.H0"}
    points = np.concatenate([np.ma.filled(drawn.get_offsets(), np.nan) for drawn in left.collections])
    overall = functions.sel(task="overall")
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(overall["outlier_ratio"].values.ravel()))
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(overall["object_ratio"].values.ravel()))
    assert sum(patch.get_width() for patch in right.patches) == functions["function"].size
    without = functions.copy(deep=True)
    without["object_ratio"][:] = np.nan
    assert figure_functions.draw(without).axes[0].get_ylabel() == "evenness on the other patches"


def test_bad_folders_and_files_are_named(results, tmp_path):
    with pytest.raises(ResultsError, match="no results folder at"):
        figures.write(tmp_path / "nothing")
    with pytest.raises(ResultsError, match="nothing to draw below"):
        figures.write(tmp_path)
    path = tmp_path / MODEL / "shapes" / "attention_knockout.nc"
    shutil.copytree(results / MODEL / "shapes", path.parent)
    for folder in ("sip", "str"):
        shutil.rmtree(path.parent / folder)
    path.write_bytes(b"not NetCDF")
    with pytest.raises(ResultsError, match=r"attention_knockout.nc is damaged"):
        figures.write(tmp_path)


def test_an_unknown_metric_is_named(results):
    with pytest.raises(ResultsError, match="there is no metric 'kl'"):
        figures.write(results, figures.Figures(metric="kl"))


def test_an_overlay_needs_no_mask(results, tmp_path):
    (tmp_path / MODEL / "shapes").mkdir(parents=True)
    shutil.copy(results / "universal_heads.nc", tmp_path)
    with xr.open_dataset(results / MODEL / "shapes" / "attention.nc") as attention:
        changed = attention.load()
    changed["object_share"][:] = np.nan
    changed.to_netcdf(tmp_path / MODEL / "shapes" / "attention.nc")
    names = [path.name for path in figures.write(tmp_path, figures.Figures(samples=1, heads=2)).paths]
    assert names == ["attention-overlays.png", "attention-means.png", "heads-by-task.png"]
