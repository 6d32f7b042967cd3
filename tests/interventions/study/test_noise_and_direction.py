"""Gaussian noise as a corruption, and the noising direction: definitions, raw hooks, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corruptions.base import CORRUPTIONS, LeftOut
from corruptions.options import CorruptionOptions
from interventions.backends.opening import prepare
from interventions.engine.capture import capture, example
from interventions.engine.corrupt_embeddings import draw_noise, embedding_deviation, replaced
from interventions.engine.oracle.patching import run_plain, verify_patches
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.methods.options import ModulePatching
from interventions.models.parts import part_of
from interventions.models.vlm import Scored
from interventions.module_patching import patch_modules
from interventions.results import effects
from interventions.results.manifest import read_manifest
from interventions.results.roles import Cell
from interventions.study import corrupt_runs
from interventions.study.options import Options
from tests.support.hooks import answer_logits, layers_and_modules, patched

KINDS = ("gaussian_noise", "gaussian_noise_text")


def study_of(vlm, data, out, **options):
    return prepare(Options(model=vlm.name, data=data, samples=2, out=out, device="cpu", **options), vlm)


def embeddings_of(module, modality):
    """The module whose output is the embeddings, and how to add to it: apart from the project's own description."""
    if hasattr(module, "text_encoder"):
        return module.vision_model if modality == "image" else module.text_encoder.embeddings
    return module.model.language_model


class hooked_noise:
    """Raw hooks that add noise while the context lasts."""

    def __init__(self, module, noise):
        self.target, self.noise, self.module = embeddings_of(module, noise.modality), noise, module

    def __enter__(self):
        if not hasattr(self.module, "text_encoder"):

            def before(_, args, kwargs):
                return args, kwargs | {"inputs_embeds": kwargs["inputs_embeds"] + self.noise.values}

            self.handle = self.target.register_forward_pre_hook(before, with_kwargs=True)
        elif self.noise.modality == "image":

            def after(_, args, output):
                output.last_hidden_state = output.last_hidden_state + self.noise.values
                return output

            self.handle = self.target.register_forward_hook(after)
        else:
            self.handle = self.target.register_forward_hook(lambda _, args, output: output + self.noise.values)

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("kind", KINDS)
def test_patching_under_noise_agrees_with_raw_hooks(vlm, make_pair, kind, direction):
    """Two pairs of unequal length in one trace."""
    pairs = [make_pair(vlm, kind, number) for number in (0, 4)]
    noises = [draw_noise(vlm, pair, CORRUPTIONS[kind].modality, sigma=1.0, seed=0, draw=0) for pair in pairs]
    base = "clean" if direction == "noising" else "corrupt"
    examples = [example(vlm, prepare_pair(vlm, pair, Scored(5, 6)), noise, base) for pair, noise in zip(pairs, noises, strict=True)]
    captured = capture(vlm, examples, ("self_attention", "block"))
    layers, modules = layers_and_modules(vlm.module)
    for component, heads in (("self_attention", vlm.n_heads), ("block", None)):
        every = [patches(component, vlm.n_layers, heads, [Cell("", "", (ours.ids.shape[1] - 1, 3))]) for ours in examples]
        pick, side = modules[component]
        for ours, noise, mine, rows in zip(examples, noises, every, sweep(vlm, captured, every), strict=True):

            def run(row, ours=ours, noise=noise):
                pixels = ours.pixels["pixel_values"].flatten(0, 1)[row : row + 1]
                if row != ours.corrupt_run:
                    return answer_logits(vlm.module, ours.ids[row : row + 1], pixels)[0]
                with hooked_noise(vlm.module, noise):
                    return answer_logits(vlm.module, ours.ids[row : row + 1], pixels)[0]

            for patch, row in list(zip(mine, rows, strict=True))[::5]:
                columns = slice(None) if patch.head is None else slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)
                logits = patched(run, {0: pick(layers[patch.layers[0]])}, side, patch.positions, columns)
                oracle = torch.stack([logits[5], logits[6], logits.logsumexp(-1)])
                torch.testing.assert_close(row, oracle, atol=2e-5, rtol=0)
                torch.testing.assert_close(run_plain(vlm, ours, patch), oracle, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_does_not_reach_tokens_of_the_answer_that_are_given(llava, make_pair, kind):
    pair = make_pair(llava, kind)
    noise = draw_noise(llava, pair, CORRUPTIONS[kind].modality, sigma=1.0, seed=0, draw=0)
    ours = example(llava, prepare_pair(llava, pair, Scored(5, 6, (7,))), noise)
    assert ours.ids.shape[1] == len(noise.values) + 1
    measured = capture(llava, [ours], ("block",)).measured[0, 1]
    longer = replace(noise, values=torch.cat([noise.values, torch.zeros(1, llava.width)]))
    with hooked_noise(llava.module, longer):
        logits = answer_logits(llava.module, ours.ids[1:], ours.pixels["pixel_values"].flatten(0, 1)[1:])[0]
    torch.testing.assert_close(measured, torch.stack([logits[5], logits[6], logits.logsumexp(-1)]), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("gaussian_noise", "come after the layers of"), ("zero_ablation_text", "the text, which"), ("str", "the text, which")],
)
def test_what_no_state_of_a_part_depends_on_is_refused(tmp_path, data, blip, kind, why):
    study = study_of(blip, data, tmp_path, part="vision")
    with pytest.raises(LeftOut, match=rf"{kind} changes .*{why} blip-shapes-vision"):
        patch_heads(study.under(kind))
    assert why in next(iter(read_manifest(tmp_path)["runs"].values()))["status"]


@pytest.mark.parametrize("kind", [name for name, entry in CORRUPTIONS.items() if entry.embeddings])
def test_embeddings_are_changed_before_the_decoder_as_in_the_whole_model(blip, make_pair, kind):
    decoder, pair = part_of(blip, "decoder"), make_pair(blip, kind)
    noisy = draw_noise(blip, pair, CORRUPTIONS[kind].modality, sigma=1.0, seed=0, draw=0)
    entry = CORRUPTIONS[kind]
    noise = noisy if entry.draws else replaced(blip, pair, entry.modality, torch.ones(1, 1) if entry.embeddings == "mean" else None)
    ours, whole = (example(vlm, prepare_pair(vlm, pair, Scored(5, 6)), noise) for vlm in (decoder, blip))
    captured = capture(decoder, [ours], ("mlp",))
    torch.testing.assert_close(captured.measured, capture(blip, [whole], ("mlp",)).measured, atol=2e-5, rtol=0)
    assert (captured.measured[0, 0] - captured.measured[0, 1]).abs().max() > 0.01
    every = patches("mlp", decoder.n_layers, None, [Cell("", "", (0,))])
    verify_patches(decoder, ours, every, sweep(decoder, captured, [every])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_what_it_says(vlm, make_pair, kind):
    """Normal, of the given deviation, at the image's or the question's positions alone; by seed, sample and draw alone."""
    pairs = [make_pair(vlm, kind, number) for number in range(4)]
    drawn = {}
    for order in (pairs, pairs[::-1]):
        for pair in order:
            noise = draw_noise(vlm, pair, CORRUPTIONS[kind].modality, sigma=2.0, seed=3, draw=1).values
            assert torch.equal(drawn.setdefault(pair.sample["sample_id"], noise), noise)
    first = pairs[0]
    values = draw_noise(vlm, first, CORRUPTIONS[kind].modality, 2.0, 3, 1).values
    for seed, draw in ((4, 1), (3, 2)):
        assert not torch.equal(values, draw_noise(vlm, first, CORRUPTIONS[kind].modality, 2.0, seed, draw).values)
    where = values.abs().sum(1) > 0
    prompt = vlm.prompt(first.clean_question)
    if kind == "gaussian_noise" and not vlm.architecture.causal:
        assert bool(where.all())
    else:
        kinds = {"gaussian_noise": "image", "gaussian_noise_text": "question"}
        assert where.tolist() == [name == kinds[kind] for name in prompt.kinds]
    assert float(values[where].std()) == pytest.approx(2.0, rel=0.05)


def test_the_deviation_is_that_of_all_numbers(vlm, make_pair):
    pairs = [make_pair(vlm, "gaussian_noise", number) for number in range(3)]
    states = []
    for pair in pairs:
        pixels = vlm.pixels([pair.clean_image])["pixel_values"].flatten(0, 1)
        with torch.no_grad():
            if hasattr(vlm.module, "text_encoder"):
                states.append(vlm.module.vision_model(pixel_values=pixels).last_hidden_state.ravel())
            else:
                states.append(torch.cat(list(vlm.module.model.get_image_features(pixels).pooler_output)).ravel())
    assert embedding_deviation(vlm, [pair.sample for pair in pairs], "image") == pytest.approx(
        float(torch.cat(states).double().std(correction=0)), rel=1e-5
    )


@pytest.mark.parametrize("kind", [*KINDS, "mean_ablation", "mean_ablation_text"])
def test_what_a_sample_gets_does_not_depend_on_which_are_run(tmp_path, data, vlm, kind):
    few, more = (prepare(Options(model=vlm.name, data=data, samples=n, out=tmp_path / str(n), device="cpu"), vlm) for n in (1, 2))
    pair = few.pairs(kind)[0][0]
    (one, *_), (other, *_) = (study.examples(pair, kind) for study in (few, more))
    assert len(few.pairs(kind)[0]) < len(more.pairs(kind)[0])
    assert torch.equal(one.noise.values, other.noise.values)


def test_of_a_large_table_the_same_samples_are_measured_whoever_asks(tmp_path, data, vlm, monkeypatch):
    monkeypatch.setattr(corrupt_runs, "MOST_MEASURED", 3)
    study = study_of(vlm, data, tmp_path)
    drawn = [
        [row["sample_id"] for row in one.corrupt_runs.measured_samples()]
        for one in (study, study_of(vlm, data, tmp_path / "other", seed=5))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
    assert drawn[0] != study.table["sample_id"][:3]
    monkeypatch.setattr(vlm, "longest_prompt", sorted(len(vlm.prompt(question).ids) for question in study.table["question"])[2] - 1)
    assert len(study.corrupt_runs.measured_samples()) < 3  # prompts that do not fit are not run


def test_a_deviation_is_measured_once_for_a_model_and_its_data(tmp_path, data, vlm, monkeypatch):
    found = study_of(vlm, data, tmp_path).corrupt_runs.embedding_deviation("gaussian_noise")
    real, measured = corrupt_runs.embedding_deviation, []
    monkeypatch.setattr(corrupt_runs, "embedding_deviation", lambda *of: measured.append(of) or real(*of))
    changed = study_of(vlm, data, tmp_path, corruption_options=CorruptionOptions(noise_multiple=1.0), keep_wrong=True)
    assert changed.corrupt_runs.embedding_deviation("gaussian_noise") == found
    assert not measured
    other = replace(study_of(vlm, data, tmp_path), fingerprint="0123")
    assert other.corrupt_runs.embedding_deviation("gaussian_noise") == found
    assert len(measured) == 1


def test_draws_are_kept_and_averaged(tmp_path, data, vlm):
    study = study_of(vlm, data, tmp_path, corruption_options=CorruptionOptions(noise_draws=3))
    dataset = effects.read(patch_heads(study.under("gaussian_noise")))
    assert dataset.logit_correct.dims == ("sample", "draw", "layer", "head", "token")
    assert dataset.corrupt_logit_correct.dims == ("sample", "draw")
    each = [draw.effects.logit_difference() for draw in dataset.effects.each_draw()]
    assert len(each) == 3
    assert float(abs(each[0] - each[1]).max()) > 0
    np.testing.assert_allclose(dataset.effects.logit_difference(), sum(each) / 3)
    again = study_of(vlm, data, tmp_path / "one-by-one", corruption_options=CorruptionOptions(noise_draws=3), batch=1)
    np.testing.assert_allclose(effects.read(patch_heads(again.under("gaussian_noise"))).logit_correct, dataset.logit_correct, atol=1e-4)


def test_the_noising_direction_exchanges_the_runs(tmp_path, data, vlm):
    """In its own folder; baselines keep their names; patching all of the last layer gives the corrupt run."""
    denoising, noising = (study_of(vlm, data, tmp_path, direction=direction) for direction in ("denoising", "noising"))
    files = [patch_modules(study.under("sip"), ModulePatching(("block",), ("all",)))[0] for study in (denoising, noising)]
    assert [path.parent.name for path in files] == ["sip", "sip-noising"]
    there, back = map(effects.read, files)
    assert (there.effects.base, back.effects.base) == ("corrupt", "clean")
    for name in effects.MEASUREMENTS:
        for run in ("clean", "corrupt"):
            np.testing.assert_allclose(there[f"{run}_{name}"], back[f"{run}_{name}"], atol=1e-5)
        np.testing.assert_allclose(there[name].isel(layer=-1, token=0), there[f"clean_{name}"], atol=1e-5)
        np.testing.assert_allclose(back[name].isel(layer=-1, token=0), back[f"corrupt_{name}"], atol=1e-5)
    np.testing.assert_allclose(back.effects.normalized_effect().isel(layer=-1), 1, atol=1e-4)


def test_windows_of_layers_have_files_of_their_own(tmp_path, data, vlm):
    """A window of one layer is the run without windows."""
    study = study_of(vlm, data, tmp_path)
    (one,) = patch_modules(study.under("sip"), ModulePatching(("mlp",), ("all",), window=1))
    (three,) = patch_modules(study.under("sip"), ModulePatching(("mlp",), ("all",), window=3))
    assert (one.name, three.name) == ("mlp.nc", "mlp-window3.nc")
    single, wide = effects.read(one), effects.read(three)
    assert (single.attrs["window"], wide.attrs["window"]) == (1, 3)
    assert float(abs(single.logit_correct - wide.logit_correct).max()) > 1e-4
    with pytest.raises(ValueError, match="a window of 9 layers does not fit"):
        patch_modules(study.under("sip"), ModulePatching(("mlp",), ("all",), window=9))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_divergence_from_the_clean_run(tmp_path, data, vlm, direction):
    """Against torch's own, on both runs of a pair; 0 for the clean run, and where a patch restores it wholly."""
    study = study_of(vlm, data, tmp_path, divergence=True, direction=direction)
    dataset = effects.read(patch_modules(study.under("str"), ModulePatching(("block",), ("all",)))[0])
    np.testing.assert_allclose(dataset.clean_kl_from_clean, 0, atol=1e-5)
    last = dataset.kl_from_clean.isel(layer=-1, token=0)
    np.testing.assert_allclose(last, 0 if direction == "denoising" else dataset.corrupt_kl_from_clean, atol=1e-4)
    pair = study.pairs("str")[0][0]
    ours = study.examples(pair, "str")[0]
    ids, pixels = ours.ids, ours.pixels["pixel_values"].flatten(0, 1)
    with torch.no_grad():
        clean, corrupt = (
            answer_logits(vlm.module, ids[[run]], pixels[[run]]).log_softmax(-1) for run in (ours.clean_run, ours.corrupt_run)
        )
    expected = torch.nn.functional.kl_div(corrupt, clean, log_target=True, reduction="sum")
    found = dataset.corrupt_kl_from_clean.sel(sample=pair.sample["sample_id"])
    assert float(found) == pytest.approx(float(expected), abs=1e-4)
    expected_change = -found if direction == "denoising" else found
    effect = dataset.effects.divergence().sel(sample=pair.sample["sample_id"]).isel(layer=-1, token=0)
    assert float(effect) == pytest.approx(float(expected_change), abs=1e-4)
