"""Studies end to end: files of effects, resumption, what is left out, and what is refused."""

import gc
import json
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from corruptions.base import LeftOut
from data_prep.tables import schema as sample_table
from data_prep.tables.command import reporting
from interventions.attention_patterns import map_attention
from interventions.backends.opening import prepare
from interventions.engine import budget as planning
from interventions.engine import measuring
from interventions.engine.attention_maps import capture_attention
from interventions.engine.capture import SOURCE, capture, example
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import Patch
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.methods import patching
from interventions.methods.options import HeadPatching, ModulePatching
from interventions.models.vlm import Scored
from interventions.module_patching import patch_modules
from interventions.results import effects
from interventions.results.manifest import update_manifest
from interventions.results.store import Store, StoreError
from interventions.study.options import Options, RayOptions, RemoteOptions
from tests.conftest import ROOT
from tests.support.hooks import layers_and_modules

MUCH = 2**40  # bytes of free memory, with which plans are the same on any machine


@pytest.fixture
def study(tmp_path, data, vlm):
    return prepare(Options(model=vlm.name, data=data, samples=2, out=tmp_path / "results", device="cpu"), vlm)


def values(path):
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def test_head_effects_read_by_label_without_this_project(study):
    path = patch_heads(study)
    code = f"""
import sys, xarray
ds = xarray.open_dataset({str(path)!r})
main = ds.attrs["main_token"]
cell = ds.logit_correct.sel(layer=1, head=2, token=main, sample=ds.sample[0])
assert cell.ndim == 0 and float(cell) == float(cell)
assert set(ds.category.values) == {{"colour", "shape", "texture", "position"}}
assert ds.attrs["granularity"] == "heads" and ds.attrs["dataset_fingerprint"] and "torch" in ds.attrs["library_versions"]
tree = xarray.open_datatree({str(path)!r})
assert "interventions" not in sys.modules and "torch" not in sys.modules
print(sorted(ds.sizes.items()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert "('sample', 8)" in done.stdout


def test_the_file_holds_what_the_engine_measured(study):
    path = patch_heads(study)
    dataset = effects.read(path)
    pairs, _ = study.pairs("sip")
    pair, vlm = pairs[3], study.vlm
    ours = example(vlm, pair)
    cells = pair.cells(list(dataset.token.values))
    component = path.stem.removesuffix("-heads")
    labels = list(product(range(vlm.n_layers), range(vlm.n_heads), cells))
    captured = capture(vlm, [ours], (component,))
    (measured,) = sweep(vlm, captured, [[Patch(component, (layer,), head, cell.positions) for layer, head, cell in labels]])
    row = dataset.sel(sample=pair.sample["sample_id"])
    for number, name in enumerate(effects.MEASUREMENTS):
        by_label = [float(row[name].sel(layer=layer, head=head, token=cell.role)) for layer, head, cell in labels]
        np.testing.assert_allclose(by_label, measured[:, number], atol=1e-5)  # there, other pairs are in the trace too
        assert float(row[f"clean_{name}"]) == pytest.approx(float(captured.measured[0, 0, number]), abs=1e-5)
        assert float(row[f"corrupt_{name}"]) == pytest.approx(float(captured.measured[0, 1, number]), abs=1e-5)
    assert row.attrs["modality"] == "image"


def test_module_effects_line_tokens_up_by_role(study):
    (path,) = patch_modules(study.under("str"), ModulePatching(("mlp",)))
    dataset = effects.read(path)
    roles = dataset.effects.by_role()
    assert {"correct", "incorrect", "or", "noun", "?"} <= set(roles.role.values)
    unused = dataset.token_role == ""
    assert bool(np.isnan(dataset.logit_correct.where(unused, drop=True)).all()) or not bool(unused.any())
    assert not bool(np.isnan(dataset.logit_correct.where(~unused, 0.0)).any())


def test_the_reference_definition_patches_blips_mlp_at_the_layers_output(tmp_path, data, blip):
    options = Options(model=blip.name, data=data, samples=1, out=tmp_path / "reference", device="cpu", definition="reference")
    (reference,) = patch_modules(prepare(options, blip), ModulePatching(components=("mlp",)))
    options = Options(model=blip.name, data=data, samples=1, out=tmp_path / "ours", device="cpu")
    mlp, block = patch_modules(prepare(options, blip), ModulePatching(components=("mlp", "block")))
    np.testing.assert_array_equal(values(reference).logit_correct, values(block).logit_correct)
    assert not np.allclose(values(reference).logit_correct, values(mlp).logit_correct, equal_nan=True)
    assert values(reference).attrs["definition"] == "reference"


def test_half_of_the_samples_have_the_correct_option_first(study):
    pairs, _ = study.pairs("sip")
    first = {}
    for pair in pairs:
        first.setdefault(pair.sample["category"], []).append(pair.sample["correct_first"])
    assert {category: sorted(found) for category, found in first.items()} == {category: [False, True] for category in first}


def test_a_finished_file_is_left_alone_and_another_configuration_refused(study):
    path = patch_heads(study)
    before = path.stat().st_mtime_ns
    assert patch_heads(study) == path
    assert path.stat().st_mtime_ns == before
    study.options.seed = 5
    with pytest.raises(StoreError, match=r"another configuration \(seed: 0 there, 5 asked for\).*--overwrite"):
        patch_heads(study)
    study.options.overwrite = True
    patch_heads(study)
    with xr.open_dataset(path) as dataset:
        assert dataset.attrs["seed"] == 5
    study.options.seed = 0


def test_parts_of_another_configuration_are_refused(study, monkeypatch):
    study.options.batch = 3
    interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        patch_heads(study)
    monkeypatch.undo()
    study.options.samples = 1
    with pytest.raises(StoreError, match="samples: 2 there, 1 asked for"):
        patch_heads(study)


def interrupt_after(monkeypatch, traces):
    """Interrupt a study of which some pairs at a time are finished."""
    count = iter(range(traces))
    real = patching._patch_pairs

    def patch_pairs(*arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(patching, "_patch_pairs", patch_pairs)


@pytest.mark.parametrize("within", [False, True])
def test_an_interrupted_study_goes_on_and_ends_with_the_same_values(study, monkeypatch, tmp_path, within):
    """Interrupted between two traces, or while the pairs of one are kept."""
    study.options.batch = 3
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        patch_heads(study)
    monkeypatch.undo()
    if within:
        last = study.pairs("sip")[0][4].sample["sample_id"]
        (folder,) = study.folder.rglob("*.partial")
        Store(folder.with_name(folder.name.removeprefix(".").removesuffix(".partial") + ".nc"), _configuration(folder))._part(last).unlink()
    redone = []
    real = patching._patch_pairs
    monkeypatch.setattr(patching, "_patch_pairs", lambda study, pairs, *rest: redone.append(len(pairs)) or real(study, pairs, *rest))
    resumed = values(patch_heads(study))
    assert redone == ([3, 2] if within else [2])  # of 8: none that was whole was done twice
    monkeypatch.undo()
    study.options.out = tmp_path / "whole"
    whole = values(patch_heads(study))
    xr.testing.assert_identical(resumed.drop_attrs(), whole.drop_attrs())
    assert not list(tmp_path.rglob("*.partial"))


def _configuration(parts):
    return json.loads((parts / "configuration.json").read_text())


def test_a_study_keeps_the_plan_it_began_with(study, monkeypatch):
    """Whatever memory is free later; another device or dtype is planned anew."""
    monkeypatch.setattr(planning, "free_memory", lambda device: 0)
    patch_heads(study)
    key = f"{study.vlm.name}/shapes/sip"
    begun = json.loads((study.options.out / "manifest.json").read_text())["plans"][key]
    assert begun["samples"] == 1
    monkeypatch.setattr(planning, "free_memory", lambda device: MUCH)
    seen = []
    real = patching._patch_pairs
    monkeypatch.setattr(patching, "_patch_pairs", lambda study, pairs, *rest: seen.append(len(pairs)) or real(study, pairs, *rest))
    patch_modules(study, ModulePatching(components=("mlp",)))
    assert set(seen) == {1}
    update_manifest(study.options.out, "plans", key, begun | {"dtype": "bfloat16"})
    patch_modules(study, ModulePatching(components=("block",)))
    assert max(seen) > 1


def test_pairs_that_do_not_fit_in_memory_together_are_halved(study, monkeypatch, caplog):
    monkeypatch.setattr(planning, "free_memory", lambda device: MUCH)
    whole = values(patch_heads(study))
    real, sizes = measuring.capture, []

    def small_device(vlm, examples, components, divergence):
        sizes.append(len(examples))
        if len(examples) > 3:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, examples, components, divergence)

    monkeypatch.setattr(measuring, "capture", small_device)
    study.options.out = study.options.out / "again"
    halved = values(patch_heads(study))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert "8 pairs did not fit in memory; going on with 4 at a time" in caplog.text
    np.testing.assert_allclose(halved.logit_correct, whole.logit_correct, atol=5e-5)
    np.testing.assert_allclose(halved.clean_logit_correct, whole.clean_logit_correct, atol=5e-5)


def test_what_never_fits_in_memory_is_said_in_one_line(study, monkeypatch):
    def no_device(*_):
        raise torch.OutOfMemoryError("Traceback ...\nCUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(measuring, "capture", no_device)
    with pytest.raises(SystemExit) as ended, reporting("head_patching"):
        patch_heads(study)
    assert str(ended.value).startswith(
        "head_patching: even one run does not fit in the device's memory (CUDA out of memory. Tried to allocate 2 GiB.)"
    )
    assert all(what in str(ended.value) for what in ("--batch 1", "--dtype", "--device"))
    assert "\n" not in str(ended.value)


def test_memory_stays_flat(study):
    """What a sample leaves behind does not grow: after some warm up, nothing lives on but its numbers."""
    pairs, _ = study.pairs("sip")
    target = patching.Target(study.vlm.architecture.head_component, True, ("all",))
    cells = [pair.cells(target.tokens) for pair in pairs]

    def once():
        patching._patch_pairs(study, pairs, "sip", {target: cells}, patching.Plan(8, 1000))
        gc.collect()
        return sum(thing.numel() for thing in gc.get_objects() if type(thing) is torch.Tensor)

    once()
    before = once()
    for _ in range(3):
        after = once()
    assert after <= before


def test_samples_left_out_are_in_the_manifest_with_their_reasons(tmp_path, data, blip):
    study = prepare(Options(model=blip.name, data=data, samples=2, out=tmp_path, device="cpu"), blip)
    wrong = study.table[0]["sample_id"]
    study.answers[wrong] = "purple"
    path = patch_heads(study)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = manifest["runs"][str(path.relative_to(tmp_path))]
    reasons = {left["sample"]: left["reason"] for left in entry["left_out"]}
    assert reasons[wrong].startswith("the model answers 'purple', not")
    assert wrong not in values(path).sample.values
    assert manifest["answers"][f"{blip.name}/shapes"]["colour"]["asked"] == 4


def test_no_sample_left_says_why(tmp_path, data, blip):
    study = prepare(Options(model=blip.name, data=data, samples=2, out=tmp_path, device="cpu"), blip)
    study.answers = dict.fromkeys(study.answers, "nothing")
    with pytest.raises(Exception, match=r"no sample of 'shapes' is left.*the model answers 'nothing'.*--keep-wrong"):
        patch_heads(study)


def test_a_question_longer_than_the_model_takes_is_left_out(tmp_path, blip, shapes):
    row = dict(shapes[0]) | {"sample_id": "long", "question": f"Is the {'very ' * 20}big circle red or blue?"}
    row |= {"correct_answer": "red", "incorrect_answer": "blue", "correct_first": True, "clean_attributes": "", "corrupt_attributes": ""}
    sample_table.save(sample_table.build([row, dict(shapes[1])]), tmp_path / "data", {"name": "long", "seed": 0, "left_out": []})
    study = prepare(Options(model=blip.name, data=str(tmp_path / "data"), samples=2, out=tmp_path / "results", device="cpu"), blip)
    _, left_out = study.pairs("sip")
    assert {"sample": "long", "reason": "the prompt has 92 tokens, the model takes 64"} in left_out


def test_what_has_no_sample_is_in_the_manifest_as_not_run(tmp_path, data, blip):
    study = prepare(Options(model=blip.name, data=data, samples=2, out=tmp_path, device="cpu"), blip)
    study.answers = dict.fromkeys(study.answers, "nothing")
    with pytest.raises(LeftOut):
        patch_heads(study)
    (entry,) = json.loads((tmp_path / "manifest.json").read_text())["runs"].values()
    assert entry["status"].startswith("not run: no sample of 'shapes' is left")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "no-such-folder"}, "no-such-folder"),
        ({"corruption": "noise"}, "unknown corruption 'noise'; choose from sip, str"),
        ({"samples": 0}, "--samples must be at least 1, not 0"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"threads": -1}, "--threads must be at least 0"),
        ({"batch": -1}, "--batch must be at least 0"),
        ({"verify": -1}, "--verify must be at least 0"),
        ({"ray": RayOptions(workers=-1)}, "--workers must be at least 0"),
        ({"ray": RayOptions(gpus_per_worker=-0.5)}, "--gpus-per-worker must be a finite number of at least 0"),
        ({"remote": RemoteOptions(jobs=0)}, "--jobs must be at least 1"),
        ({"remote": RemoteOptions(wait_limit=0.0)}, "--wait-limit must be a finite number above 0"),
        ({"out": Path("/proc/nowhere")}, "cannot write into /proc/nowhere.*--out"),
    ],
)
def test_wrong_options_are_refused(tmp_path, data, blip, options, message):
    with pytest.raises((ValueError, StoreError, OSError), match=message):
        prepare(Options(**{"model": blip.name, "data": data, "out": tmp_path, **options}), blip)
    assert not list(tmp_path.iterdir())  # before any work


def test_wrong_components_and_tokens_are_refused(study):
    with pytest.raises(ValueError, match="no component 'nose'"):
        patch_modules(study, ModulePatching(components=("mlp", "nose")))
    with pytest.raises(ValueError, match=r"'mlp' of .* has no heads"):
        patch_heads(study, HeadPatching(component="mlp"))
    with pytest.raises(ValueError, match="no token has the role 'verb'"):
        patch_heads(study, HeadPatching(tokens=("verb",)))


def test_a_full_disk_loses_no_finished_sample(study, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    pairs, _ = study.pairs("sip")
    study.options.batch = 1
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        patch_heads(study)
    monkeypatch.undo()
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StoreError, match=r"No space left on device.*finished before are kept"):
        patch_heads(study)
    monkeypatch.undo()
    component = study.vlm.architecture.head_component
    assert len(list((study.folder / "sip").glob(f".{component}-heads.partial/*.npz"))) == 2
    assert len(effects.read(patch_heads(study)).sample) == len(pairs)


def test_attention_patterns_are_probabilities_over_patches(study):
    with xr.open_dataset(map_attention(study)) as dataset:
        sums = dataset.attention.sum("patch")
        assert bool((dataset.attention >= 0).all())
        assert bool((sums <= 1 + 1e-5).all())
        assert dataset.sizes["patch"] == 64
        assert dataset.image.dtype == np.uint8
        shares = dataset.object_share.sum("patch") * 64  # each patch has 64 pixels
        masks = {row["sample_id"]: (np.asarray(row["object_mask"]) > 127).sum() for row in study.table}
        np.testing.assert_allclose(shares.values, [masks[str(name)] for name in dataset.sample.values], rtol=1e-3)


def test_attention_sums_to_one_and_weighs_the_values(vlm, make_pair):
    """Over all keys; and z is the values of each head weighed by it (values by a plain hook)."""
    pair = make_pair(vlm, "sip")
    component = vlm.architecture.head_component
    layers, _ = layers_and_modules(vlm.module)
    values_of, handles = {}, []
    for number, layer in enumerate(layers):
        projection = layer.crossattention.self.value if hasattr(layer, "crossattention") else layer.self_attn.v_proj
        handles.append(
            projection.register_forward_hook(lambda _, inputs, output, number=number: values_of.update({number: output[:1].clone()}))
        )
    with vlm.showing_attention():
        probabilities = capture_attention(vlm, vlm.ids([vlm.prompt(pair.clean_question)]), vlm.pixels([pair.clean_image]), component)
    assert probabilities.shape[:3] == (vlm.n_layers, vlm.n_heads, len(vlm.prompt(pair.clean_question).ids))
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    z = capture(vlm, [example(vlm, prepare_pair(vlm, pair, Scored(1, 2)))], (component,)).states[component][0, SOURCE]
    for handle in handles:
        handle.remove()
    for number in range(vlm.n_layers):
        values = values_of[number][0].unflatten(-1, (vlm.n_heads, vlm.head_dim))
        weighed = torch.einsum("hqk,khd->qhd", probabilities[number], values)
        torch.testing.assert_close(weighed.flatten(1), z[number], atol=1e-4, rtol=1e-4)


def test_killed_before_the_last_step_of_a_file_loses_no_reason(study, monkeypatch):
    """Killed as the file is written: the manifest has its entry. Killed before the parts are gone: they go at the next look."""
    monkeypatch.setattr(Store, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        patch_heads(study)
    monkeypatch.undo()
    assert json.loads((study.options.out / "manifest.json").read_text())["runs"]
    monkeypatch.setattr(Store, "_drop_parts", lambda _: None)
    path = patch_heads(study)
    parts = path.with_name(f".{path.stem}.partial")
    assert parts.is_dir()
    monkeypatch.undo()
    patch_heads(study)
    assert not parts.exists()


def test_long_sample_ids_that_end_alike_are_kept_apart(tmp_path):
    store = Store(tmp_path / "x.nc", {})
    ids = [f"{start}{'/same/end' * 40}" for start in "ab"]
    for number, name in enumerate(ids):
        store.put(name, {"number": np.array(number)})
    assert [int(store.get(name)["number"]) for name in ids] == [0, 1]


def test_a_sweep_that_is_wrong_stops_the_run_and_names_the_cell(study, monkeypatch):
    real = measuring.sweep
    monkeypatch.setattr(measuring, "sweep", lambda *arguments: [measured + 0.01 for measured in real(*arguments)])
    with pytest.raises(VerificationError, match=r"layer \d, head \d, positions .* the plain way"):
        patch_heads(study)
    assert not list(study.folder.rglob("*.npz"))


@pytest.mark.parametrize(
    "script",
    [
        *("head_patching", "module_patching", "attention_patterns", "accuracy"),
        *("attention_knockout", "head_ablation", "attribution_patching", "path_patching", "direct_effect"),
    ],
)
def test_scripts_explain_themselves_in_both_forms(script, tmp_path):
    forms = (([f"{ROOT}/interventions/{script}.py"], tmp_path), (["-m", f"interventions.{script}"], ROOT))
    started = [
        subprocess.Popen([sys.executable, *form, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
        for form, folder in forms
    ]
    for process in started:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Example: python -m interventions." in " ".join(out.split())


def test_a_script_reports_an_error_in_one_message(tmp_path):
    command = [sys.executable, f"{ROOT}/interventions/head_patching.py", "--model", "nothing", "--samples", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "interventions.head_patching: unknown model 'nothing'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_and_kill_lose_no_finished_sample(tmp_path, data):
    """The script is ended twice, by SIGINT and by SIGKILL, each time when it has kept a sample more, and then left to end."""
    options = ["--model", "blip-shapes", "--data", data, "--samples", "2", "--batch", "1", "--tokens", "every", "--out"]
    options += [str(tmp_path / "results")]
    parts = tmp_path / "results/blip-shapes/shapes/sip/.cross_attention-heads.partial"

    def finished():
        return len(list(parts.glob("*.npz")))

    kept = 0
    for how in (signal.SIGINT, signal.SIGKILL):
        held_up = [sys.executable, "-m", "tests.support.held_up", "head_patching", *options]
        process = subprocess.Popen(held_up, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while finished() <= kept and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -how)
        assert ("run the same command to go on" in errors) == (how == signal.SIGINT)
        assert finished() == kept + 1
        kept = finished()
    command = [sys.executable, f"{ROOT}/interventions/head_patching.py", *options]
    subprocess.run(command, check=True, capture_output=True)
    whole = [*command[:-1], str(tmp_path / "whole")]
    subprocess.run(whole, check=True, capture_output=True)
    name = "blip-shapes/shapes/sip/cross_attention-heads.nc"
    xr.testing.assert_identical(values(tmp_path / "results" / name).drop_attrs(), values(tmp_path / "whole" / name).drop_attrs())
