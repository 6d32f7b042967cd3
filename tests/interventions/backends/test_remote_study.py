"""Whole studies on a remote host, and what may go wrong there, against the loopback server."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.metadata import version

import pytest
import xarray as xr
from nnsight.schema.config import CONFIG

from corruptions.options import CorruptionOptions
from interventions.attention_knockout import knock_out_attention
from interventions.attention_patterns import map_attention
from interventions.attribution_patching import attribute_heads
from interventions.backends import host as host_module
from interventions.backends.__main__ import Doctor, examine
from interventions.backends.host import Host
from interventions.backends.journal import Journal
from interventions.backends.opening import open_model, prepare
from interventions.backends.remote import RemoteServer
from interventions.direct_effect import direct_effects
from interventions.engine.corrupt_embeddings import embedding_deviation
from interventions.head_ablation import ablate_heads
from interventions.head_patching import patch_heads
from interventions.methods.options import AttributionPatching, HeadAblation, ModulePatching, PathPatching
from interventions.models.loading import load
from interventions.module_patching import patch_modules
from interventions.path_patching import patch_paths
from interventions.results.store import Store, StoreError
from interventions.study.errors import BackendError
from interventions.study.options import Options, RemoteOptions
from tests.support.loopback.client import KEY, ROOT, serving

UNKNOWN_KEY = "7c1e5a52-0000-4000-8000-2f1f5d1c7a11"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "served", "--keys", KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setattr(CONFIG.API, "APIKEY", KEY)


@pytest.fixture(autouse=True)
def no_faults(server):
    server.fault(refuse=0, delay=0.0, gather=0, lose=0, die=0, undeployed=0, least_version="")


@pytest.fixture
def options(server, data, tmp_path):
    """Options of a study on the server, of 4 samples in batches of 1."""

    def make(model="llava-shapes", backend="remote", out="remote", host=None, jobs=1, **more):
        remote = RemoteOptions(host or server.url, 60.0, jobs)
        chosen = {"samples": 1, "batch": 1, "verify": 0, "keep_wrong": True, "device": "cpu"} | more
        return Options(model, data, out=tmp_path / out, backend=backend, remote=remote, **chosen)

    return make


@pytest.fixture(scope="module")
def opened(server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CONFIG.API, "APIKEY", KEY)
        return load("llava-shapes", server=RemoteServer(Host(server.url)))


@pytest.fixture
def study(options, opened):
    """A study of the model on the server; what is under way is remembered in its folder."""

    def make(**more):
        made = options(**more)
        opened.server.journal = Journal(made.out)
        return prepare(made, opened)

    return make


@pytest.fixture(scope="module")
def expected(llava, data, tmp_path_factory):
    """The file of the same study here."""
    out = tmp_path_factory.mktemp("local")
    return patch_heads(prepare(Options("llava-shapes", data, "sip", 1, out, batch=1, verify=0, keep_wrong=True), llava))


def assert_same_file(ours, theirs):
    with xr.open_dataset(ours) as here, xr.open_dataset(theirs) as there:
        xr.testing.assert_equal(here, there)
        differ = {name for name in {*here.attrs, *there.attrs} if here.attrs.get(name) != there.attrs.get(name)}
        assert differ <= {"created", "configuration"}


@pytest.mark.parametrize("model", ["blip-shapes", "llava-shapes"])
def test_a_study_there_gives_the_files_of_a_study_here(options, model, server):
    here, there = (prepare(options(model, backend, backend, verify=1)) for backend in ("local", "remote"))
    assert there.answers == here.answers
    assert_same_file(patch_heads(here), patch_heads(there))
    components = ("mlp", "block")
    for ours, theirs in zip(patch_modules(here, ModulePatching(components)), patch_modules(there, ModulePatching(components)), strict=True):
        assert_same_file(ours, theirs)
    assert_same_file(map_attention(here), map_attention(there))
    said = json.loads((there.options.out / "manifest.json").read_text())["remote"]
    heads = said[str(patch_heads(there).relative_to(there.options.out))]
    assert (heads["host"], heads["samples"], heads["jobs"]) == (server.url, 4, 4)
    assert heads["bytes_sent_per_sample"] == round(heads["bytes_sent"] / 4) > 10_000
    assert 100 < heads["bytes_received_per_sample"] < 20_000
    assert KEY not in "".join(path.read_text(errors="ignore") for path in there.options.out.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "script",
    [
        knock_out_attention,
        partial(attribute_heads, options=AttributionPatching(steps=2)),
        direct_effects,
        partial(patch_paths, options=PathPatching(senders=["L0.H1"], receivers=["L2.H0.q", "answer"])),
    ],
)
def test_other_interventions_run_there_too(study, options, llava, script):
    there = script(study(divergence=True))
    assert_same_file(script(prepare(options(backend="local", out="local", divergence=True), llava)), there)


def test_heads_are_ablated_there_too(study, options, llava):
    made = []
    for here_or_there in (prepare(options(backend="local", out="local"), llava), study()):
        patch_heads(here_or_there)
        made.append(ablate_heads(here_or_there, HeadAblation(replacements=("zero", "resample", "corrupt"), sizes=(1, 3), random_sets=1)))
    assert_same_file(*made)


def test_noise_and_noising_are_as_here(study, options, llava):
    chosen = {"corruption": "gaussian_noise", "corruption_options": CorruptionOptions(noise_draws=2), "direction": "noising"}
    there = patch_heads(study(jobs=3, **chosen))
    assert_same_file(patch_heads(prepare(options(backend="local", out="local", **chosen), llava)), there)


def test_noise_is_measured_once_for_all_threads(study, server, monkeypatch):
    ours, measured = study(jobs=3, corruption="gaussian_noise", corruption_options=CorruptionOptions(noise_draws=1)), []

    def deviation(*arguments):
        measured.append(arguments)
        return embedding_deviation(*arguments)

    monkeypatch.setattr("interventions.study.corrupt_runs.embedding_deviation", deviation)
    server.fault(delay=0.2)
    patch_heads(ours)
    assert len(measured) == 1


def under_way(study):
    return json.loads((study.options.out / ".remote-jobs.json").read_text())


def traffic(study):
    return json.loads((study.options.out / "manifest.json").read_text())["remote"]


def test_a_host_that_is_not_there_is_an_error_and_not_a_run_here(options, monkeypatch):
    monkeypatch.setattr(host_module, "FIRST_PATIENCE", 0.3)
    with pytest.raises(BackendError, match=r"no answer from http://127.0.0.1:9 .*--host or NDIF_HOST"):
        prepare(options(host="http://127.0.0.1:9"))
    with pytest.raises(BackendError, match="begins with http"):
        prepare(options(host="127.0.0.1:9"))


@pytest.mark.parametrize(("used", "said"), [(UNKNOWN_KEY, "refuses the key"), ("not-a-key", "<key>"), (None, "without a key")])
def test_a_wrong_key_is_refused_and_never_shown(options, monkeypatch, used, said):
    monkeypatch.setattr(CONFIG.API, "APIKEY", used)
    with pytest.raises(BackendError, match="NDIF_API_KEY") as error:
        prepare(options())
    assert said in str(error.value)
    assert used is None or used not in str(error.value)


def test_a_client_that_is_too_old_is_told_so(options, server):
    made = options()
    server.fault(least_version="99.0")
    with pytest.raises(BackendError, match=r"below the minimum supported 99.0.*doctor"):
        prepare(made)


def test_a_model_that_is_not_deployed(options, tmp_path):
    shutil.copytree(ROOT / "checkpoints" / "llava-shapes", tmp_path / "another-model")
    with pytest.raises(BackendError, match=r"another-model.*doctor"):
        prepare(options(str(tmp_path / "another-model")))


@pytest.mark.parametrize("part", ["decoder", "vision"])
def test_parts_are_measured_there_too(options, part):
    made = []
    for where in ("local", "remote", "remote-dry-run"):
        there = prepare(options("blip-shapes", where, where, part=part, verify=1, batch=2))
        made.append([*patch_modules(there.under("str" if part == "decoder" else "sip"), ModulePatching(("mlp",))), patch_heads(there)])
        made[-1].append(ablate_heads(there, HeadAblation(replacements=("zero",), sizes=(1,), random_sets=1)))
    for ours, *theirs in zip(*made, strict=True):
        for path in theirs:
            assert_same_file(ours, path)


def test_means_over_samples_are_not_made_there(study, caplog):
    ranked = study()
    patch_heads(ranked)
    with pytest.raises(ValueError, match="choose zero, resample or corrupt"):
        ablate_heads(ranked, HeadAblation(replacements=("mean",)))
    with xr.open_dataset(ablate_heads(ranked, HeadAblation(sizes=(1,), random_sets=0))) as ablated:
        assert list(ablated["replacement"].values) == ["zero", "resample", "corrupt"]
    assert "it would leave the remote host" in caplog.text


def test_what_passes_is_tried_again(study, expected, server, caplog):
    study = study()
    server.fault(refuse=3, lose=1)  # three requests are refused with 503; one result is gone when it is fetched
    assert_same_file(expected, patch_heads(study))
    assert "Service temporarily unavailable" in caplog.text
    assert "is submitted again" in caplog.text


def test_a_job_that_takes_too_long_is_taken_up_by_the_next_program(study, expected, server, monkeypatch):
    ours, before = study(), len(server.seen())
    server.fault(delay=3.0)
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 0.3)
    with pytest.raises(BackendError, match=r"not finished after 0.3 s .*--wait-limit.*run the same command"):
        patch_heads(ours)
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 60.0)
    server.fault(delay=0.0)
    assert_same_file(expected, patch_heads(study()))
    assert len(server.seen()) == before + 4  # none of the four batches was submitted twice
    assert under_way(ours) == {}


@pytest.mark.parametrize("awaited", [True, False])
def test_a_job_that_the_host_gave_up_is_submitted_again(study, expected, server, monkeypatch, awaited):
    ours = study()
    server.fault(undeployed=1, delay=0.0 if awaited else 0.6)
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 60.0 if awaited else 0.2)
    with pytest.raises(BackendError, match="cannot be had at" if awaited else "not finished after"):
        patch_heads(ours)
    assert len(under_way(ours)) == (0 if awaited else 1)
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 60.0)
    assert_same_file(expected, patch_heads(study()))
    assert under_way(ours) == {}


def test_a_job_that_died_there_is_given_up_after_two_waits(study, expected, server, monkeypatch):
    ours = study()
    server.fault(die=1)
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 0.3)
    with pytest.raises(BackendError, match=r"its status: RUNNING.*--wait-limit waits longer"):
        patch_heads(ours)
    with pytest.raises(BackendError, match=r"submitted before; it is given up.*next run"):
        patch_heads(study())
    monkeypatch.setattr(ours.vlm.server.host, "wait_limit", 60.0)
    assert_same_file(expected, patch_heads(study()))
    assert under_way(ours) == {}


def test_a_host_may_take_its_time_to_begin_a_job(study, expected, server, monkeypatch):
    ours, before = study(jobs=2), len(server.seen())
    monkeypatch.setattr(host_module, "UNHEARD", 0.1)
    server.fault(delay=0.5)  # in which the second job is said to be received
    assert_same_file(expected, patch_heads(ours))
    assert len(server.seen()) == before + 4


def remote_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("remote")]


def test_a_result_that_is_not_kept_yet_is_not_lost_and_bytes_add_up(study, expected, server, monkeypatch):
    ours, before = study(jobs=2), len(server.seen())
    real, kept = Store.put, []

    def put(store, *sample):
        kept.append(sample)
        if len(kept) == 2:
            raise KeyboardInterrupt
        real(store, *sample)

    monkeypatch.setattr(Store, "put", put)
    with pytest.raises(KeyboardInterrupt):
        patch_heads(ours)
    assert not remote_threads()  # though the error, and so the frames in which it was raised, are still there
    monkeypatch.setattr(Store, "put", real)
    key = str(expected.relative_to(expected.parents[3]))
    first = traffic(ours)[key]
    assert first["samples"] == 1
    assert_same_file(expected, patch_heads(study()))
    assert len(server.seen()) == before + 4
    assert traffic(ours)[key]["samples"] == 4
    assert traffic(ours)[key]["bytes_sent"] > first["bytes_sent"] > 0
    patch_heads(ours.under("str"))
    assert traffic(ours)[key]["samples"] == traffic(ours)[key.replace("sip", "str")]["samples"] == 4


def test_ctrl_c_ends_a_program_whose_host_hangs(study, monkeypatch):
    ours = study(jobs=2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, and never answers
        monkeypatch.setattr(ours.vlm.server.host, "url", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            patch_heads(ours)
        assert time.monotonic() - started < 20  # not after the 60 s that an answer is waited for
    assert not remote_threads()


def test_other_weights_at_the_host_are_another_configuration(study, monkeypatch):
    ours = study()
    path = patch_heads(ours)
    with xr.open_dataset(path) as dataset:
        there = json.loads(dataset.attrs["configuration"])["weights_there"]
    assert there == ours.vlm.server.weights != ""
    monkeypatch.setattr(ours.vlm.server, "weights", "others")
    before = ours.vlm.server.traffic.jobs
    again = study()
    assert ours.vlm.server.traffic.jobs == before + 1  # their answers may be others
    with pytest.raises(StoreError, match=f"weights_there: '{there}' there, 'others' asked for"):
        patch_heads(again)


def test_files_name_the_versions_at_the_host(study, monkeypatch):
    ours = study()
    monkeypatch.setattr(ours.vlm.server, "versions", ours.vlm.server.versions | {"python": "3.1", "torch": "0.1"})
    with xr.open_dataset(patch_heads(ours)) as dataset:
        assert dataset.attrs["python_version"] == "3.1"
        assert f"nnsight {version('nnsight')}, torch 0.1, " in dataset.attrs["library_versions"]


def test_options_that_a_host_does_not_heed_are_named(options, caplog):
    open_model(options(dtype="bfloat16", device="cuda:1"))
    assert "--dtype bfloat16 and --device cuda:1: the host has the model in float32 on cpu" in caplog.text
    caplog.clear()
    open_model(options())
    assert caplog.text == ""


def test_jobs_overlap_in_the_hosts_queue(study, expected, server):
    ours, before = study(jobs=3), len(server.seen())
    server.fault(gather=2)
    assert_same_file(expected, patch_heads(ours))
    assert max(seen["queued"] for seen in server.seen()[before:]) == 2


def test_a_server_that_dies_in_mid_run_costs_no_finished_sample(study, expected, server, monkeypatch):
    ours = study(jobs=2)
    real = Store.put
    monkeypatch.setattr(host_module, "PATIENCE", 1.0)
    monkeypatch.setattr(Store, "put", lambda *given: real(*given) or server.kill())  # with another job under way
    server.fault(delay=0.5)
    try:
        with pytest.raises(BackendError, match=r"no answer from .*Every finished sample is kept: run the same command again"):
            patch_heads(ours)
    finally:
        monkeypatch.setattr(Store, "put", real)
        server.kill()
        server.start()
    kept = {path: path.stat().st_mtime_ns for path in ours.folder.rglob("*.npz")}
    assert 1 <= len(kept) < 4
    monkeypatch.setattr(host_module, "UNHEARD", 2.0)  # this server forgets its jobs
    again = study()
    assert {path: path.stat().st_mtime_ns for path in ours.folder.rglob("*.npz")} == kept
    assert_same_file(expected, patch_heads(again))
    assert len(server.seen()) == 4 - len(kept)


def test_the_command_line_says_what_is_wrong_in_one_line(data, tmp_path, server):
    command = [sys.executable, "-m", "interventions.head_patching", "--backend", "remote", "--host", server.url, "--samples", "1"]
    environment = {"PATH": "", "HOME": str(tmp_path), "NDIF_API_KEY": UNKNOWN_KEY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--data", data, "--out", str(tmp_path / "out")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"interventions.head_patching: {server.url} refuses the key (403")
    assert UNKNOWN_KEY not in done.stderr + done.stdout


def test_the_doctor(server, monkeypatch):
    monkeypatch.setattr(host_module, "FIRST_PATIENCE", 0.3)
    fine = list(examine(Doctor(server.url, "llava-shapes")))
    assert all(finding.fine for finding in fine), "\n".join(map(str, fine))
    text = "\n".join(map(str, fine))
    assert "deployed: blip-shapes, llava-shapes" in text
    assert "nnsight 0.8.1 here, 0.8.1 there" in text
    assert "its sites hold: 2 jobs" in text
    assert KEY not in text
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    assert [str(finding) for finding in examine(Doctor(server.url))][1].startswith("DO  no key")
    (dead,) = examine(Doctor("http://127.0.0.1:9"))
    assert not dead.fine
