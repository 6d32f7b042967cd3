"""Studies on Ray: a cluster of two nodes on this machine, workers and nodes that are lost, a driver that is killed; always the same file.

The order of the tests saves time: workers started by one serve the next ones.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import xarray as xr

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -r requirements-ray.txt)")
from ray.cluster_utils import Cluster

from corruptions.options import CorruptionOptions
from interventions import accuracy
from interventions.attribution_patching import attribute_heads
from interventions.backends import ray_cluster
from interventions.backends.opening import prepare
from interventions.backends.ray_cluster import RayCluster, connect, disconnect
from interventions.backends.ray_worker import Task
from interventions.backends.work import Batch
from interventions.methods import patching
from interventions.methods.options import HeadPatching, ModulePatching
from interventions.methods.patching import head_target, module_targets, patch_study
from interventions.results.store import Store
from interventions.study.errors import BackendError
from interventions.study.options import Options, RayOptions
from tests.conftest import ROOT
from tests.support.fatal_work import Fatal, KilledOnce

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # on a full machine it would end workers
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        made.add_node(**NODE)
    yield made
    disconnect()
    made.shutdown()


@pytest.fixture
def options(cluster, data, tmp_path):
    """Options of a study on the cluster."""
    return Options(
        model="blip-shapes",
        data=data,
        samples=2,
        out=tmp_path / "ray",
        device="cpu",
        batch=2,
        backend="ray",
        ray=RayOptions(address=cluster.address),
    )


@pytest.fixture(scope="module")
def local(blip, data, tmp_path_factory):
    """The files that this process makes."""
    options = Options(model=blip.name, data=data, samples=2, out=tmp_path_factory.mktemp("local"), device="cpu", batch=2)
    return patch_all(prepare(options, blip))


def patch_all(study):
    return patch_study(study, [head_target(study, HeadPatching()), *module_targets(study, ModulePatching(("mlp",)))])


def read(path):
    """A file's variables, and its attributes but when it was made."""
    with xr.open_dataset(path) as dataset:
        dataset = dataset.load()
    del dataset.attrs["created"]
    return dataset


def assert_same(made, wanted):
    for one, other in zip(made, wanted, strict=True):
        xr.testing.assert_identical(read(one), read(other))


def after_samples(monkeypatch, count, do):
    """Do something when so many samples were kept."""
    kept = []
    real = Store.put

    def put(store, *arguments):
        real(store, *arguments)
        kept.append(store)
        if len(kept) == count:
            do()

    monkeypatch.setattr(Store, "put", put)


def test_a_killed_driver_started_again_goes_on(cluster, options, local, blip):
    """Killed as soon as it has kept one sample, of a batch of two."""
    command = [
        sys.executable,
        "-m",
        "tests.support.held_up",
        "head_patching",
        "--model",
        "blip-shapes",
        "--data",
        options.data,
        "--samples",
        "2",
    ]
    command += ["--out", str(options.out), "--batch", "2", "--device", "cpu", "--backend", "ray", "--address", cluster.address]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = options.out / "blip-shapes/shapes/sip/.cross_attention-heads.partial"
    deadline = time.monotonic() + 300
    while not list(parts.glob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(parts.glob("*.npz"))) == 1
    assert_same(patch_all(prepare(options, blip)), local)


def test_one_worker_makes_the_same_file(options, local, blip):
    options.ray = replace(options.ray, workers=1)
    assert_same(patch_all(prepare(options, blip)), local)


@pytest.mark.parametrize("corruption", ["gaussian_noise", "mean_ablation_text"])
def test_gradients_and_noise_on_two_nodes_are_those_of_this_process(corruption, options, blip, tmp_path):
    options.corruption, options.corruption_options = corruption, CorruptionOptions(noise_draws=2)
    here = replace(options, backend="local", out=tmp_path / "local")
    study = prepare(options, blip)
    assert_same([attribute_heads(study)], [attribute_heads(prepare(here, blip))])
    task = Task.of(study, Fatal("", ""))  # what is measured over all pairs goes along
    assert set(task.deviations | task.means) == {corruption}


def test_a_killed_worker_is_replaced(options, local, blip, monkeypatch, caplog, tmp_path):
    study = prepare(options, blip)
    name = study.pairs("sip")[0][2].sample["sample_id"]
    real = patching.Patching
    monkeypatch.setattr(patching, "Patching", lambda *given: KilledOnce(name, tmp_path / "mark", work=real(*given)))
    assert_same(patch_all(study), local)
    assert "a Ray worker was lost while it measured" in caplog.text


def test_the_last_batch_of_a_killed_worker_goes_to_one_that_is_idle(options, blip, tmp_path):
    before = pids()
    study = prepare(options, blip)
    batches = [Batch((name,), ("x",)) for name in study.table["sample_id"][:2]]
    found = dict(RayCluster(options.ray).run(study, KilledOnce(batches[1].samples[0], tmp_path / "mark", after=1.0), batches))
    assert int(found[batches[1]][0]["x"]["process"]) in before


def pids():
    """The workers' processes, when all have started."""
    (workers,) = ray_cluster._workers.values()
    ray.get([worker.ready.remote() for worker in workers])
    return ray.get([worker.__ray_call__.remote(lambda _: os.getpid()) for worker in workers])


def test_accuracy_there_is_that_of_this_process(options, monkeypatch, capsys):
    printed = []
    for where in ([], ["--backend", "ray", "--address", options.ray.address], ["--backend", "remote-dry-run"]):
        command = ["accuracy", "--models", "blip-shapes", "--data", "validation", options.data, "--per-category", "2", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*command, *where])
        accuracy.main()
        printed.append([line for line in capsys.readouterr().out.splitlines() if "% of " in line])  # Ray tells there of lost workers
    assert len(printed[0]) == 2 * (1 + 4)  # of each data set the whole, and each category
    assert printed == printed[:1] * 3


def test_what_is_wrong_with_a_batch_is_raised_when_the_others_are_finished(options, blip):
    study = prepare(options, blip)
    batches = [Batch((name,), ("x",)) for name in study.table["sample_id"][:6]]
    done = []
    with pytest.raises(ValueError, match="cannot be measured"):
        done.extend(batch for batch, _ in RayCluster(options.ray).run(study, Fatal(batches[1].samples[0], "raise"), batches))
    assert batches[0] in done
    assert batches[1] not in done


def test_more_workers_than_there_is_room_for(options, blip, caplog):
    connect(options.ray.address)
    study = prepare(options, blip)
    task = type("Task", (), {"device": "cpu", "threads": 1})
    assert RayCluster(RayOptions(workers=5))._size(task, 100) == (2, 0.0, 1.0)
    assert "has room for 2 workers, not for 5" in caplog.text
    assert RayCluster(RayOptions())._size(task, 1)[0] == 1  # no more than batches
    task.threads = 2  # as many as the cluster has, but no node
    with pytest.raises(
        BackendError, match=r"takes 2 CPU cores \(--threads\) of one node, and the largest of the cluster's 2 nodes has .* 1 CPU c"
    ):
        RayCluster(RayOptions())._size(task, 100)
    with pytest.raises(BackendError, match="--gpus-per-worker 1 does not go with a model on cpu"):
        list(RayCluster(RayOptions(options.ray.address, gpus_per_worker=1)).run(study, Fatal("", ""), [Batch(("a",), ())]))
    task.device = "cuda"
    with pytest.raises(BackendError, match=r"takes 1 GPUs \(--gpus-per-worker\) and 2 CPU cores of one node, and the largest .* 0 GPUs"):
        RayCluster(RayOptions())._size(task, 100)


def test_a_batch_that_loses_worker_after_worker_is_named(options, blip, monkeypatch):
    study = prepare(options, blip)
    monkeypatch.setattr(ray_cluster, "MOST_LOSSES", 1)  # each loss costs the seconds in which a worker starts
    batches = [Batch((name,), ("x",)) for name in study.table["sample_id"][:6]]
    name = batches[1].samples[0]
    with pytest.raises(BackendError, match=rf"1 Ray workers were lost while they measured {name}.*fewer --workers"):
        list(RayCluster(options.ray).run(study, Fatal(name, "exit"), batches))


def test_a_lost_node_does_not_hold_up_the_others(cluster, options, local, blip, monkeypatch):
    """Near the end: workers of the lost node may live, and be lost, for a while after it."""
    study = prepare(options, blip)
    (other,) = cluster.worker_nodes
    after_samples(monkeypatch, 2, lambda: cluster.remove_node(other, allow_graceful=False))
    assert_same(patch_all(study), local)


def test_no_cluster_at_an_address():
    disconnect()
    with pytest.raises(BackendError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'.*recipes/README\.md"):
        connect("127.0.0.1:1")
