"""The seam between studies and what measures them: any order, any process, the same files; and what is missing is said."""

import builtins
import pickle
import sys

import numpy as np
import pytest
import xarray as xr

from data_prep.tables.command import reporting
from interventions.attention_knockout import knock_out_attention
from interventions.attention_patterns import map_attention
from interventions.attribution_patching import attribute_heads
from interventions.backends import running
from interventions.backends.local import Local
from interventions.backends.opening import prepare
from interventions.backends.work import Backend
from interventions.direct_effect import direct_effects
from interventions.head_ablation import ablate_heads
from interventions.head_patching import patch_heads
from interventions.methods import patching
from interventions.methods.options import AttributionPatching, HeadAblation, HeadPatching, ModulePatching
from interventions.methods.patching import head_target, module_targets
from interventions.study.errors import BackendError
from interventions.study.options import Options


class Backwards(Backend):
    """Measures the last batch first, with work and batches that went through a pickle."""

    def run(self, study, work, batches):
        for batch in pickle.loads(pickle.dumps(tuple(batches)))[::-1]:
            yield batch, pickle.loads(pickle.dumps(work))(study, batch)


def read(path):
    """A file's variables, and its attributes but when it was made."""
    with xr.open_dataset(path) as dataset:
        dataset = dataset.load()
    del dataset.attrs["created"]
    return dataset


def patch_all(study):
    return patching.patch_study(study, [head_target(study, HeadPatching()), *module_targets(study, ModulePatching())])


VERBS = {
    "patching": patch_all,
    "attention": lambda study: [map_attention(study)],
    "knockout": lambda study: [knock_out_attention(study)],
    "attribution": lambda study: [attribute_heads(study, AttributionPatching(steps=2))],
    "ablation": lambda study: [patch_heads(study), ablate_heads(study, HeadAblation(replacements=("mean", "zero", "resample", "corrupt")))],
    "direct": lambda study: [direct_effects(study)],
}


@pytest.mark.parametrize("verb", VERBS)
def test_files_do_not_depend_on_the_order_of_batches_and_work_is_pickled(verb, llava, data, tmp_path, monkeypatch):
    def study(folder):
        return prepare(Options(model=llava.name, data=data, samples=2, out=tmp_path / folder, device="cpu", batch=3), llava)

    here = VERBS[verb](study("here"))
    monkeypatch.setattr(running, "choose", lambda options: Backwards())
    there = VERBS[verb](study("there"))
    for one, other in zip(here, there, strict=True):
        xr.testing.assert_identical(read(one), read(other))


def test_an_interruption_keeps_what_is_finished_and_the_rest_alone_is_measured(blip, data, tmp_path, monkeypatch):
    def study(folder):
        return prepare(Options(model=blip.name, data=data, samples=2, out=tmp_path / folder, device="cpu", batch=3), blip)

    class Interrupted(Local):
        def run(self, study, work, batches):
            for number, found in enumerate(Backwards().run(study, work, batches)):
                if number == 2:
                    raise KeyboardInterrupt
                yield found

    seen = []

    class Counting(Local):
        def run(self, study, work, batches):
            seen.extend(len(batch.samples) for batch in batches)
            return super().run(study, work, batches)

    whole = patch_heads(study("whole"))
    monkeypatch.setattr(running, "choose", lambda options: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        patch_heads(study("parts"))
    monkeypatch.setattr(running, "choose", lambda options: Counting())
    resumed = patch_heads(study("parts"))
    assert seen == [3]  # of 8: 3, 3, 2, of which the last two batches were finished
    xr.testing.assert_identical(read(whole), read(resumed))


def test_assembling_reads_one_sample_after_the_other(blip, data, tmp_path, monkeypatch):
    """The arrays of all samples are never held beside the file that they are put into."""
    study = prepare(Options(model=blip.name, data=data, samples=2, out=tmp_path, device="cpu"), blip)
    alive = []
    real = patching.Store.get

    def get(store, sample_id):
        arrays = dict(real(store, sample_id))
        arrays["patched"] = Tracked.of(arrays["patched"], alive)
        return arrays

    monkeypatch.setattr(patching.Store, "get", get)
    patch_heads(study)
    assert alive.count("made") == 8
    assert max(alive[: place + 1].count("made") - alive[: place + 1].count("gone") for place in range(len(alive))) <= 3


class Tracked(np.ndarray):
    """An array that writes down when it is made and when it is gone."""

    @classmethod
    def of(cls, array, alive):
        made = array.view(cls)
        made.alive = alive
        alive.append("made")
        return made

    def __array_finalize__(self, other):
        self.alive = None

    def __del__(self):
        if self.alive is not None:
            self.alive.append("gone")


def test_an_unknown_backend_is_refused_before_any_work(blip, data, tmp_path):
    with pytest.raises(BackendError, match="unknown backend 'slurm'; choose from local, ray"):
        prepare(Options(model=blip.name, data=data, out=tmp_path, backend="slurm"), blip)


def test_without_ray_the_message_names_the_file_of_requirements(monkeypatch):
    real = builtins.__import__

    def no_ray(name, *arguments, **keywords):
        if name == "ray" or name.startswith("ray."):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith("interventions.backends.ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_ray)
    with pytest.raises(BackendError, match=r"needs the package ray.*pip install -r requirements-ray\.txt"):
        running.choose(Options(backend="ray"))


def test_a_backends_error_is_one_message(capsys):
    with pytest.raises(SystemExit, match=r"^head_patching: no cluster"), reporting("head_patching"):
        raise BackendError("no cluster")
