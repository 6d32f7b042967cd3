"""How commands start: `--help` loads no heavy library, Ctrl-C while libraries load ends in one line, and a finished stage is found by its
files alone."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest

from interventions.methods.options import AttentionPatterns, HeadPatching, ModulePatching
from interventions.results.finished import Stage, named_paths
from interventions.study.option_words import defaults
from interventions.study.options import Settings
from tests.conftest import ROOT

HEAVY = (
    *("torch", "transformers", "datasets", "nnsight", "pandas", "xarray", "matplotlib", "scipy", "statsmodels", "cv2", "netCDF4"),
    *("plotly", "pyarrow", "jinja2"),
)
MAIN = 'if __name__ == "__main__"'
WITHOUT_OPTIONS = {"analysis.products", "data_prep.select_samples"}
FOLDERS = ("interventions", "analysis", "data_prep")
PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("[!_]*.py")) if MAIN in path.read_text()]
COMMANDS = sorted({"run_all", *(f"{path.parent.name}.{path.stem}" for path in PATHS)} - WITHOUT_OPTIONS)
SHOW_ALL = """
import contextlib, io, json, runpy, sys

class Refuse:
    def find_spec(self, name, *_):
        if name in heavy:
            raise LookupError(name)

heavy, said = set(sys.argv[1].split()), {}
sys.meta_path.insert(0, Refuse())
for command in sys.argv[2:]:
    sys.argv, shown = [command, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except LookupError as error:
        said[command] = f"loads {error}"
    except SystemExit:
        said[command] = shown.getvalue()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def shown():
    """What `--help` of each command says, in one process in which no heavy library can be loaded."""
    arguments = [sys.executable, "-c", SHOW_ALL, " ".join(HEAVY), *COMMANDS]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_no_heavy_library(shown, command):
    assert "--help" in shown[command]


def test_run_all_offers_every_option_of_the_interventions_that_it_runs(shown):
    """Each written once, with its help: those that all share, and each intervention's own under its name."""
    own = {"head-patching": HeadPatching, "module-patching": ModulePatching, "attention-patterns": AttentionPatterns}
    wanted = [f"--{name}.{option.name}" for name, options in own.items() for option in fields(options)]
    wanted += [f"--{name.replace('_', '-')}" for name in defaults(Settings)]
    assert {"--definition", "--part", "--revision", "--batch", "--verify", "--noise-draws", "--wait-limit"} <= set(wanted)
    assert [option for option in [*wanted, "--modules"] if option not in shown["run_all"]] == []


def test_all_commands_are_tried():
    assert {"interventions.head_patching", "analysis.report", "data_prep.shapes"} <= set(COMMANDS)
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("library", ["datasets", "torch"])
def test_ctrl_c_while_libraries_load_ends_in_one_line(tmp_path, library):
    program = (
        f"import sys, runpy, threading, os, signal\n"
        f"class Stop:\n"
        f"    def find_spec(self, name, *_):\n"
        f"        if name == {library!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        f"sys.meta_path.insert(0, Stop())\n"
        f"sys.argv = ['head_patching', '--samples', '1', '--out', {str(tmp_path / 'results')!r}]\n"
        f"runpy.run_module('interventions.head_patching', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == "interventions.head_patching: interrupted; what is finished is kept, run the same command to go on"


@dataclass
class Asked:
    samples: int = 1
    words: tuple[str, ...] = ()


@pytest.fixture
def folder(tmp_path):
    for name in ("model/weights", "data/table"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("abc")
    (tmp_path / "results").mkdir()
    return tmp_path


def stage(folder, **options):
    return Stage(folder / "results", "measurements", (Asked(**options),), (folder / "model", folder / "data"))


def end(folder):
    begun = stage(folder).read()
    output = folder / "results" / "effects.nc"
    output.write_text("numbers")
    stage(folder).end(begun, [output], ["not run: a reason"])
    return output


def test_a_finished_stage_says_again_what_it_said(folder):
    assert stage(folder).words() is None
    end(folder)
    assert stage(folder).words() == ["not run: a reason"]


def rewrite(path, text="abd"):
    """Another content of the same size, with the same time of change of the content."""
    times = path.stat()
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model" / "weights").write_text("abcd"),
        lambda folder: rewrite(folder / "model" / "weights"),
        lambda folder: (folder / "model" / "more").write_text(""),
        lambda folder: (folder / "data" / "table").unlink(),
        lambda folder: rewrite(folder / "data" / "table"),
        lambda folder: rewrite(folder / "results" / "effects.nc", "numberx"),
        lambda folder: (folder / "results" / "effects.nc").unlink(),
        lambda folder: (folder / "results" / ".finished.json").write_text("{"),
    ],
)
def test_a_stage_whose_files_are_others_is_not_finished(folder, change):
    end(folder)
    change(folder)
    assert stage(folder).words() is None


def test_a_stage_of_other_options_is_not_finished(folder):
    end(folder)
    assert stage(folder, samples=2).words() is None
    assert stage(folder, words=("a",)).words() is None
    assert stage(folder).words() is not None


def test_a_stage_of_another_program_is_not_finished(folder, monkeypatch):
    end(folder)
    monkeypatch.setattr("interventions.results.finished._program", lambda: ["another version"])
    assert stage(folder).words() is None


def test_a_stage_whose_inputs_change_while_it_runs_is_not_noted(folder):
    begun = stage(folder).read()
    (folder / "data" / "table").write_text("other")
    stage(folder).end(begun, [])
    assert stage(folder).words() is None


def test_a_stage_may_write_into_the_folder_that_it_reads(folder):
    def analysis():
        return Stage(folder / "results", "analysis", (Asked(),), (folder / "results",))

    measured = end(folder)
    begun = analysis().read()
    (folder / "results" / "heads.csv").write_text("head")
    analysis().end(begun, [folder / "results" / "heads.csv"], ["one head"])
    assert analysis().words() == ["one head"]
    (folder / "results" / "more.nc").write_text("")
    assert analysis().words() is None
    (folder / "results" / "more.nc").unlink()
    assert analysis().words() == ["one head"]
    measured.write_text("other numbers")
    assert analysis().words() is None


def test_paths_among_options_are_found(tmp_path):
    (tmp_path / "there").mkdir()
    options = {"a": tmp_path / "not-there", "b": str(tmp_path / "there"), "c": {"d": [str(tmp_path)]}, "e": "sip", "f": 3, "g": ""}
    assert list(named_paths(options)) == [tmp_path / "not-there", tmp_path / "there", tmp_path]
