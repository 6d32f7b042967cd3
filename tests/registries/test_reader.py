"""A data set is added by one entry in one file: bars is listed, prepared, patched, judged and drawn, and nothing else changes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data_prep
from analysis import report, universal_heads
from analysis.heads.options import NoticeRule
from analysis.plots import every
from analysis.store.folder import read_tree
from data_prep.__main__ import main as listing
from data_prep.tables import readers
from interventions.results import effects

ROOT = Path(__file__).resolve().parents[2]
ENTRY = '''"""Bars: drawn scenes, of one colour against another."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.scenes.rendering import render
from data_prep.scenes.table import draw_pair
from data_prep.tables.candidates import Candidate, Preparation, Source
from data_prep.tables.readers import main, reader


@reader(title="Bars", categories="colour", corrupt_image="the bar in the other colour")
@dataclass(kw_only=True)
class Bars(Preparation):
    """Make a sample table of bars.

    Example: python -m data_prep.bars --out data/bars
    """

    out: Path = Path("data/bars")
    """Folder that receives the sample table."""

    def read(self) -> Source:
        return Source("bars", [Candidate(f"bar-{i}", "colour", f"number {i}", partial(_row, self.seed, i)) for i in range(4)])


def _row(seed, number):
    scene, corrupt, question = draw_pair(np.random.default_rng([seed, number]), "colour", "test", correct_first=number % 2 == 0)
    images = (Image.fromarray(render(one)[0]) for one in (scene, corrupt))
    names = ("clean_image", "corrupt_image")
    answers = {"correct_answer": question.correct, "incorrect_answer": question.incorrect, "noun": question.noun}
    return {"question": question.text, **answers, **dict(zip(names, images, strict=True))}


if __name__ == "__main__":
    main(Bars)
'''


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "bars.py").write_text(ENTRY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(readers, "READERS", dict(readers.READERS))
        patched.setattr(data_prep, "__path__", [*data_prep.__path__, str(folder)])
        yield readers.all_readers()["bars"]
    sys.modules.pop("data_prep.bars", None)


@pytest.fixture(scope="module")
def table(added, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bars") / "bars"
    readers.run(added.options(out=out))
    return out


@pytest.fixture(scope="module")
def results(table, tmp_path_factory) -> Path:
    """Its samples patched under both corruptions, and judged."""
    out = tmp_path_factory.mktemp("bars") / "results"
    chosen = ["--model", "blip-shapes", "--data", str(table), "--out", str(out), "--samples", "4", "--keep-wrong", "--device", "cpu"]
    for corruption in ("sip", "str"):
        command = [sys.executable, "-m", "interventions.head_patching", *chosen, "--corruption", corruption]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    universal_heads.write(out, NoticeRule(permutations=0))
    return out


def test_it_is_listed_and_its_row_is_that_of_the_page(added, capsys):
    listing()
    assert "python -m data_prep.bars\n    Bars: colour; corrupt image: the bar in the other colour" in capsys.readouterr().out
    assert added.row == "| Bars | `bars` | colour | the bar in the other colour | - |"


def test_its_options_are_explained(added, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bars", "--help"])
    with pytest.raises(SystemExit):
        readers.main(added.options)
    said = capsys.readouterr().out
    assert "Make a sample table of bars" in said
    assert "--limit" in said  # what every reader has


def test_effects_figures_tables_and_the_first_screen_have_it(results):
    heads = effects.read(results / "blip-shapes/bars/sip/cross_attention-heads.nc")
    assert (heads.attrs["dataset"], heads.sizes["sample"]) == ("bars", 4)
    assert float(np.abs(heads.effects.logit_difference()).max()) > 0
    assert read_tree(results / "universal_heads.nc")["blip-shapes"]["task"].values.tolist() == ["bars/colour"]
    assert "blip-shapes/bars/sip-cross_attention-heads" in dict(every.every_figure(results))
    first = re.sub(r"\s+", " ", report.write(results).paths[0].read_text(encoding="utf-8")).split('id="ran"')[0]
    assert "bars" in first
