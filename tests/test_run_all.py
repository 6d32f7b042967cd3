"""`run_all.py` as a user runs it: twice the same values, killed and resumed the same, wrong options refused."""

import os
import signal
import subprocess
import sys
import time

import pytest
import xarray as xr

from interventions.results import effects
from run_all import RunAll, judged_corruptions, measure
from tests.conftest import ROOT

TINY = ["--samples", "2", "--modules", "mlp", "block", "--power-runs", "1", "--models"]


def start(folder, *options):
    command = [sys.executable, str(ROOT / "run_all.py"), "--out", "results", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *options):
    process = start(folder, *options)
    out, errors = process.communicate()
    return process.returncode, out, errors


def values(folder):
    """Every value of every NetCDF file; what says when and how it was made is left aside."""
    found = {}
    for path in sorted((folder / "results").rglob("*.nc")):
        with xr.open_datatree(path) as tree:
            for node in tree.subtree:
                found[str(path.relative_to(folder)), node.path] = node.to_dataset().load().drop_attrs()
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        xr.testing.assert_identical(one[name], other[name])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    code, out, errors = run(folder, *TINY, "blip-shapes", "llava-shapes")
    assert code == 0, errors
    return folder, out


def test_it_ends_with_where_the_results_are_and_the_universal_heads(finished):
    folder, out = finished
    results = folder / "results"
    assert str(results) in out
    assert all(f"{model}: vision:" in out for model in ("blip-shapes", "llava-shapes"))
    made = {str(path.relative_to(results)) for path in results.rglob("*")}
    wanted = {f"{model}/shapes/{corruption}/{component}.nc" for model in ("blip-shapes", "llava-shapes")
              for corruption in ("sip", "str") for component in ("mlp", "block")}  # fmt: skip
    wanted |= {f"blip-shapes/shapes/{corruption}/cross_attention-heads.nc" for corruption in ("sip", "str")}
    wanted |= {f"llava-shapes/shapes/{corruption}/self_attention-heads.nc" for corruption in ("sip", "str")}
    wanted |= {
        f"{name}.{end}" for name in ("universal_heads", "robust_heads", "stability", "head_functions", "modules") for end in ("nc", "csv")
    }
    wanted |= {"compare_corruptions.csv", "paper_claims.csv", "paper_claims.md", "report.html", "manifest.json", "robust_power.csv"}
    wanted |= {f"figures/{model}/{curves}.pdf" for model in ("blip-shapes", "llava-shapes") for curves in ("stability", "power")}
    assert wanted <= made
    with xr.open_datatree(results / "universal_heads.nc") as tree:
        assert set(tree.children) == {"blip-shapes", "llava-shapes"}


def test_the_whole_folder_opens_as_one_tree(finished):
    tree = effects.read_tree(finished[0] / "results")
    assert {"blip-shapes", "llava-shapes"} == set(tree.children)
    by_role = tree["llava-shapes/shapes/str/mlp"].to_dataset().effects.by_role()
    assert by_role.dims == ("sample", "layer", "role")


def test_a_second_run_gives_the_same_values_bit_for_bit(finished, tmp_path):
    code, _, errors = run(tmp_path, *TINY, "blip-shapes", "llava-shapes")
    assert code == 0, errors
    assert_same(values(finished[0]), values(tmp_path))


def test_a_finished_run_is_found_finished_before_any_library_is_loaded(finished, tmp_path):
    folder, said = finished
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch is loaded')")
    states = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
    for changed, code in (([], 0), (["--direction", "noising"], 1)):
        command = [sys.executable, str(ROOT / "run_all.py"), "--out", "results", *TINY, "blip-shapes", "llava-shapes", *changed]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert (done.stdout == said) is (not changed)
        assert ("torch is loaded" in done.stderr) is bool(changed)
    assert states == {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}


def test_killed_half_way_and_resumed_gives_the_same_values(finished, tmp_path):
    results = tmp_path / "results"
    within = ("llava-shapes/shapes/str/.self_attention-heads.partial/*.npz", "llava-shapes/shapes/str/self_attention-heads.nc")
    for markers in (("blip-shapes/shapes/sip/cross_attention-heads.nc",), within):
        process = start(tmp_path, *TINY, "blip-shapes", "llava-shapes")
        deadline = time.monotonic() + 600
        while not any(path for marker in markers for path in results.glob(marker)) and process.poll() is None:
            assert time.monotonic() < deadline, f"none of {markers} is there"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors}"
    code, _, errors = run(tmp_path, *TINY, "blip-shapes", "llava-shapes")
    assert code == 0, errors
    assert_same(values(finished[0]), values(tmp_path))


def test_results_of_another_configuration_stop_it(finished):
    code, _, errors = run(finished[0], *TINY, "blip-shapes", "--dtype", "bfloat16")
    assert code == 1
    assert "results of another configuration" in errors
    assert "dtype" in errors
    assert "Traceback" not in errors


def test_heads_are_judged_by_the_corruptions_that_ran():
    assert judged_corruptions(("gaussian_noise", "sip", "str"), "denoising") == ("sip", "str")
    assert judged_corruptions(("constraint", "zero_ablation"), "denoising") == ("zero_ablation", "constraint")
    assert judged_corruptions(("gaussian_noise",), "noising") == ("gaussian_noise-noising", "str-noising")


def test_another_corruption_in_the_other_direction_runs_to_the_end(tmp_path):
    other = ["--corruptions", "mean_ablation", "--direction", "noising", "--models", "blip-shapes", "--samples", "1", "--modules", "none"]
    code, out, errors = run(tmp_path, *other, "--power-runs", "0")
    assert code == 0, errors
    assert "nearest under mean_ablation-noising" in out
    assert "stability was not judged: every task" in errors
    assert not (tmp_path / "results" / "robust_power.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "blop"], "unknown model 'blop'"),
        (["--datasets", "no-such-data"], "no-such-data"),
        (["--corruptions", "noise"], "noise"),
        (["--out", "/proc/results"], "cannot write into /proc/results"),
        (["--metric", "beauty"], "beauty"),
        (["--modules", "nose"], "nose"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--noise-draws", "0"], "--noise-draws must be at least 1"),
        (["--power-runs", "-1"], "--power-runs must be at least 0, not -1"),
    ],
)
def test_a_wrong_option_stops_it_before_any_work(tmp_path, options, message):
    code, _, errors = run(tmp_path, *options)
    assert code in (1, 2)
    assert message in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.nc"))


@pytest.mark.parametrize("option", ["models", "datasets", "corruptions"])
def test_an_option_that_names_nothing_is_refused_before_any_work(tmp_path, option):
    with pytest.raises(ValueError, match=f"--{option} names none"):
        measure(RunAll(out=tmp_path / "results", **{option: ()}))
    assert not (tmp_path / "results").exists()
