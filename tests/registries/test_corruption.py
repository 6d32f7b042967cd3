"""A corruption is added by one entry in one file: blur is run, judged, drawn, told and listed without a change anywhere else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import corruptions
from analysis import compare_corruptions, report, universal_heads
from analysis.corruptions.options import Comparing
from analysis.heads.options import NoticeRule
from analysis.plots import every
from analysis.store.folder import read_tree
from corruptions import base
from interventions.results import effects

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "sees the clean image without its details"
ENTRY = f'''"""Blur: the image without its details."""

from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFilter

from corruptions.base import Pair, PairMaker, register
from corruptions.painting.cache import ImageCache
from data_prep.tables.sample import option_spans


@dataclass(frozen=True)
class BlurOptions:
    """Options of the corruption that blurs."""

    blur_radius: float = 4.0
    """Standard deviation of the blur, in pixels."""
    blurred: Path = Path("data/blurred")
    """Folder that keeps blurred images."""


@register("blur", "image", "{SENTENCE}", options=BlurOptions)
class Blur(PairMaker):
    def __init__(self, samples=(), seed=0, options=None, device="auto"):
        super().__init__(samples, seed, options, device)
        self.options = options or BlurOptions()

    @property
    def configuration(self):
        return {{"blur_radius": self.options.blur_radius}}

    def corrupt(self, sample, tokenize):
        clean, spans = sample["clean_image"], option_spans(sample["question"], sample["correct_answer"], sample["incorrect_answer"])
        blurred = ImageCache(self.options.blurred).get(
            self.configuration, [clean], lambda: clean.filter(ImageFilter.GaussianBlur(self.options.blur_radius))
        )
        return Pair(sample, blurred, sample["question"], spans, spans)
'''
COMMANDS = """
import sys
import corruptions
corruptions.__path__.append(sys.argv[1])
from interventions import head_patching, module_patching
chosen = sys.argv[2:]
for script, options in (
    (head_patching, ["--corruption", "blur", "--blur-radius", "2.5"]),
    (head_patching, ["--corruption", "str"]),
    (module_patching, ["--corruption", "blur", "--blur-radius", "2.5", "--components", "block", "--tokens", "noun", "correct"]),
):
    sys.argv = [script.__name__, *chosen, *options]
    script.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the one file."""
    path = tmp_path_factory.mktemp("corruption")
    (path / "blur.py").write_text(ENTRY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory, folder, data) -> Path:
    """A small study under it, and under a corruption of the text."""
    out = tmp_path_factory.mktemp("corruption") / "results"
    chosen = ["--model", "blip-shapes", "--data", data, "--out", str(out), "--samples", "2", "--keep-wrong", "--device", "cpu"]
    ran = [sys.executable, "-c", COMMANDS, str(folder), *chosen, "--blurred", str(folder / "kept")]
    subprocess.run(ran, cwd=ROOT, check=True, capture_output=True, text=True)
    return out


@pytest.fixture(scope="module", autouse=True)
def added(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(base.CORRUPTIONS, "_entries", dict(base.CORRUPTIONS))
        patched.setattr(corruptions, "__path__", [*corruptions.__path__, str(folder)])
        base.CORRUPTIONS.discover()
        yield
    sys.modules.pop("corruptions.blur", None)


@pytest.fixture(scope="module")
def judged(results) -> Path:
    universal_heads.write(results, NoticeRule(image_corruption="blur", permutations=0))
    compare_corruptions.write(results, Comparing(resamples=10))
    return results


def texts(figure: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(lambda one: hasattr(one, "get_text")))


def test_files_of_effects_say_what_it_is_and_what_they_depend_on(results):
    heads = effects.read(results / "blip-shapes/shapes/blur/cross_attention-heads.nc")
    assert (heads.attrs["corruption"], heads.attrs["modality"]) == ("blur", "image")
    assert json.loads(heads.attrs["configuration"])["blur_radius"] == 2.5
    assert bool((heads["corrupt_prompt"] == heads["clean_prompt"]).all())
    assert float(abs(heads["clean_logit_correct"] - heads["corrupt_logit_correct"]).max()) > 0
    assert effects.read(results / "blip-shapes/shapes/blur/block.nc").attrs["component"] == "block"


def test_heads_are_judged_by_it_in_files_and_tables(judged):
    universal = read_tree(judged / "universal_heads.nc")["blip-shapes"]
    assert universal["corruption"].values.tolist() == ["blur", "str"]
    assert universal["modality"].values.tolist() == ["image", "text"]
    columns = pd.read_csv(judged / "universal_heads.csv").columns
    assert {"blur_mean_effect", "str_mean_effect"} < set(columns)
    assert "blur" in (judged / "compare_corruptions.csv").read_text(encoding="utf-8")


def test_every_figure_that_shows_corruptions_shows_it(judged):
    drawn = dict(every.every_figure(judged))
    of_it = [name for name in drawn if "/blur" in name]
    assert "blip-shapes/shapes/blur-modules" in of_it
    assert len(of_it) == 2  # maps of heads and of modules
    for name in of_it:
        assert "blur corruption (image)" in texts(drawn[name]), name


def test_the_first_screen_of_the_report_says_what_it_is(judged):
    assert ("blur", SENTENCE) in report.find(judged)["corruptions"]
    page = re.sub(r"\s+", " ", report.write(judged).paths[0].read_text(encoding="utf-8"))
    first = page.split('id="ran"')[0]
    assert f"Under blur the corrupt run {SENTENCE}." in first


def test_results_of_one_that_is_not_known_are_shown_as_they_are_called(judged, monkeypatch):
    monkeypatch.delitem(base.CORRUPTIONS._entries, "blur")
    shown = report.find(judged)
    assert ("blur", "is of a kind that is not known") in shown["corruptions"]
    assert "blur" in {run["corruption"] for run in shown["runs"]}


def test_help_offers_it_and_its_options(folder):
    asks = (
        f"import corruptions; corruptions.__path__.append({str(folder)!r}); import run_all, sys; sys.argv = ['', '--help']; run_all.main()"
    )
    wide = os.environ | {"COLUMNS": "4000"}
    told = subprocess.run([sys.executable, "-c", asks], cwd=ROOT, env=wide, capture_output=True, text=True, check=True).stdout
    assert f"{SENTENCE}: blur (image)" in re.sub(r"[\s│]+", " ", told)
    assert "--blur-radius" in told
    assert "Standard deviation of the blur, in pixels." in told


def test_the_facts_of_corruptions_and_all_options_load_no_library():
    slow = "torch", "datasets", "transformers", "scipy", "xarray"
    asks = f"import sys, corruptions.options; print([name for name in {slow} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match=r"'blur' is registered already, by corruptions\.blur"):
        base.register("blur", "image", SENTENCE)(base.CleanInputs)


def test_documents_list_the_corruptions_that_there_are(monkeypatch):
    assert f"| `blur` | image | {SENTENCE} |" in base.table()
    monkeypatch.delitem(base.CORRUPTIONS._entries, "blur")
    listed = "\n".join(line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").split("\n"))
    assert base.table() in listed
