"""Attribution patching: exact where the model is linear in z, its gradients against raw PyTorch hooks, its file, and its agreement."""

import copy
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from corruptions.options import CorruptionOptions
from interventions import attribution_patching
from interventions.attribution_patching import attribute_heads
from interventions.backends.opening import prepare
from interventions.engine import gradients
from interventions.engine.capture import BASE, SOURCE, capture, example
from interventions.engine.gradients import attribution, integrated_attribution, of_cells, quadrature
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import Patch, patches
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.methods import attribution_patching as method
from interventions.methods.attribution_patching import chosen_cells
from interventions.methods.options import AttributionPatching, HeadPatching
from interventions.models.loading import wrap
from interventions.results import effects
from interventions.results.estimates import compare_estimates
from interventions.results.roles import every_token, roles
from interventions.study.options import Options
from tests.support.hooks import answer_logits, layers_and_modules

COMPONENTS = ("self_attention", "cross_attention")


@pytest.fixture
def study(tmp_path, data, vlm):
    return prepare(Options(model=vlm.name, data=data, samples=1, out=tmp_path / "results", device="cpu"), vlm)


def captured_pair(vlm, pair, components):
    scored = vlm.scored(pair.clean_question, pair.sample["correct_answer"], pair.sample["incorrect_answer"])
    ours = example(vlm, prepare_pair(vlm, pair, scored))
    return capture(vlm, [ours], components), ours


def logit_difference(measured):
    return measured[..., 0] - measured[..., 1]


@torch.no_grad()
def linear(vlm):
    """A model whose logits are linear in z at every layer: no norms in the text part, uniform attention, MLPs that add nothing."""
    module = copy.deepcopy(vlm.module)
    parts = [module.text_encoder, module.text_decoder] if hasattr(module, "text_encoder") else [module.model.language_model]
    for part in parts:
        for name, child in list(part.named_modules()):
            for own, grandchild in list(child.named_children()):
                if "norm" in type(grandchild).__name__.lower() or own == "transform_act_fn":
                    setattr(child, own, nn.Identity())
            if name.endswith(("query", "q_proj", "down_proj")) or (name.endswith("output.dense") and "attention" not in name):
                child.weight.zero_()
                if child.bias is not None:
                    child.bias.zero_()
    return wrap(module, vlm.processor, "linear")


@pytest.mark.parametrize(("component", "corruption"), [("self_attention", "sip"), ("self_attention", "str"), ("cross_attention", "sip")])
def test_estimates_are_exact_where_the_model_is_linear_in_z(vlm, make_pair, corruption, component):
    if component not in vlm.architecture.attention:
        pytest.skip(f"{vlm.architecture.name} has no {component}")
    model = linear(vlm)
    pair = make_pair(model, corruption, 1)
    captured, _ = captured_pair(model, pair, (component,))
    prompt = model.prompt(pair.clean_question)
    cells = every_token(prompt, roles(prompt, pair, model.architecture.causal))
    (measured,) = sweep(model, captured, [patches(component, model.n_layers, model.n_heads, cells)])
    exact = logit_difference(measured) - logit_difference(captured.measured[0, BASE])
    exact = exact.view(model.n_layers, model.n_heads, len(cells))
    assert exact.abs().max() > 1e-3
    for estimate in (attribution(model, captured, component), integrated_attribution(model, captured, component, steps=2)):
        found = of_cells(estimate, [cell.positions for cell in cells])
        torch.testing.assert_close(found, exact, atol=1e-4 * float(exact.abs().max()) + 3e-5, rtol=1e-4)


def hooked_gradients(vlm, component, ids, pixels, answers, put_in=None):
    """LD and dLD/dz of every layer, [layer, token, width], by raw hooks and autograd; `put_in` replaces the z of some layers."""
    layers, modules = layers_and_modules(vlm.module)
    pick, side = modules[component]
    found = {}

    def keep(number):
        def change(z):
            z = (put_in or {}).get(number, z[0])[None].clone().requires_grad_() if number in (put_in or {}) or not found else z
            z.retain_grad()
            found[number] = z
            return z

        if side == "input":
            return lambda _, inputs: (change(inputs[0]), *inputs[1:])
        return lambda _, inputs, output: (change(output[0]), *output[1:])

    register = "register_forward_pre_hook" if side == "input" else "register_forward_hook"
    handles = [getattr(pick(layer), register)(keep(number)) for number, layer in enumerate(layers)]
    logits = answer_logits(vlm.module, ids, pixels)[0]
    for handle in handles:
        handle.remove()
    (logits[answers[0]] - logits[answers[1]]).backward()
    return torch.stack([found[number].grad[0] for number in range(len(layers))])


@pytest.mark.parametrize("component", COMPONENTS)
def test_gradients_agree_with_raw_hooks(vlm, make_pair, component):
    if component not in vlm.architecture.attention:
        pytest.skip(f"{vlm.architecture.name} has no {component}")
    captured, ours = captured_pair(vlm, make_pair(vlm, "sip", 1), (component,))
    expected = hooked_gradients(vlm, component, ours.ids[1:], ours.pixels["pixel_values"][1], ours.answers)
    assert expected.abs().amax((1, 2)).min() > 1e-3
    with torch.no_grad():  # whatever the caller's mode
        torch.testing.assert_close(gradients.gradients(vlm, captured, component), expected, atol=1e-5, rtol=1e-4)
    states = captured.states[component][0]
    by_hand = ((states[SOURCE] - states[BASE]) * expected).unflatten(-1, (vlm.n_heads, -1)).sum(-1)
    torch.testing.assert_close(attribution(vlm, captured, component), by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("together", [1, 4])
def test_integrated_gradients_agree_with_a_slow_sum_over_the_path(vlm, make_pair, monkeypatch, together):
    component = vlm.architecture.head_component
    captured, ours = captured_pair(vlm, make_pair(vlm, "sip", 1), (component,))
    clean, corrupt = captured.states[component][0]
    monkeypatch.setattr(gradients, "runs_in_a_trace", lambda *_, **__: together)
    found = integrated_attribution(vlm, captured, component, steps=3)
    points, weights = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5), (5 / 18, 8 / 18, 5 / 18)  # Gauss and Legendre's three, between 0 and 1
    for layer in (0, vlm.n_layers - 1):
        mean = 0
        for point, weight in zip(points, weights, strict=True):
            z = corrupt[layer] + point * (clean[layer] - corrupt[layer])
            there = hooked_gradients(vlm, component, ours.ids[1:], ours.pixels["pixel_values"][1], ours.answers, {layer: z})
            mean = mean + weight * there[layer]
        expected = ((clean[layer] - corrupt[layer]) * mean).unflatten(-1, (vlm.n_heads, -1)).sum(-1)
        torch.testing.assert_close(found[layer], expected, atol=1e-4, rtol=1e-4)


def test_steps_that_do_not_fit_in_memory_are_halved(vlm, make_pair, monkeypatch):
    component = vlm.architecture.head_component
    captured, _ = captured_pair(vlm, make_pair(vlm, "sip", 1), (component,))
    monkeypatch.setattr(gradients, "runs_in_a_trace", lambda *_, **__: 5)
    whole, real, sizes = integrated_attribution(vlm, captured, component, steps=5), gradients._on_path, []

    def small_device(vlm, captured, component, number, points):
        sizes.append(len(points))
        if len(points) > 2:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, component, number, points)

    monkeypatch.setattr(gradients, "_on_path", small_device)
    torch.testing.assert_close(integrated_attribution(vlm, captured, component, steps=5), whole, atol=1e-5, rtol=1e-4)
    assert sizes[:5] == [5, 2, 3, 1, 2]


def test_integrated_gradients_sum_to_what_patching_the_whole_layer_changes(vlm, make_pair):
    """Completeness, to the error of the quadrature; the plain gradient misses it."""
    component = vlm.architecture.head_component
    captured, _ = captured_pair(vlm, make_pair(vlm, "sip", 1), (component,))
    everywhere = tuple(range(captured.lengths[0]))
    (measured,) = sweep(vlm, captured, [[Patch(component, (layer,), None, everywhere) for layer in range(vlm.n_layers)]])
    exact = logit_difference(measured) - logit_difference(captured.measured[0, BASE])
    sums = integrated_attribution(vlm, captured, component, steps=20).sum((1, 2))
    torch.testing.assert_close(sums, exact, atol=0.01, rtol=0)
    assert (attribution(vlm, captured, component).sum((1, 2)) - exact).abs().max() > 0.1


def test_the_quadrature_is_exact_for_polynomials():
    points, weights = quadrature(4)
    for power in range(8):
        assert (weights * points**power).sum() == pytest.approx(1 / (power + 1), rel=1e-5)


def test_attributions_of_several_positions_add_up():
    attributed = torch.arange(12.0).view(1, 4, 3)
    assert of_cells(attributed, [(0,), (1, 3)])[0].tolist() == [[0, 3 + 9], [1, 4 + 10], [2, 5 + 11]]


def test_the_largest_cells_are_chosen():
    estimate = np.array([[[1.0, -3.0], [0.5, 2.0]]])
    assert chosen_cells(estimate, "top", 2).tolist() == [1, 3]
    assert chosen_cells(estimate, "all", 2).tolist() == [0, 1, 2, 3]
    assert chosen_cells(estimate, "none", 2).tolist() == []
    assert chosen_cells(estimate, "top", 9).tolist() == [1, 3, 0, 2]


# ---------------------------------------------------------------------- the file


def test_with_all_cells_exact_the_measurements_are_those_of_head_patching(study):
    tokens = ("correct", "or")
    exact = effects.read(patch_heads(study, HeadPatching(tokens=tokens)))
    found = effects.read(attribute_heads(study, AttributionPatching(tokens=tokens, exact="all")))
    for name in [*effects.MEASUREMENTS, *(f"{run}_{name}" for run in ("clean", "corrupt") for name in effects.MEASUREMENTS)]:
        np.testing.assert_allclose(found[name], exact[name], atol=1e-5)
    for name in exact.coords:
        xr.testing.assert_equal(found[name].drop_attrs(), exact[name].drop_attrs())
    assert found["attribution"].dims == ("sample", "layer", "head", "token")


def test_with_the_top_cells_exact_the_others_are_not_there(study):
    found = effects.read(attribute_heads(study, AttributionPatching(tokens=("every",), exact="top", top=5, steps=1)))
    for sample in range(found.sizes["sample"]):
        row = found.isel(sample=sample)
        estimate, there = abs(row["attribution"].values.ravel()), row["logit_correct"].notnull().values.ravel()
        assert there.sum() == 5
        np.testing.assert_allclose(sorted(estimate[there]), sorted(estimate[np.isfinite(estimate)])[-5:])
    assert compare_estimates(found, 5).empty  # the estimate itself chose these cells
    assert bool((found["integrated_attribution"].isnull() == (found["token_role"] == "")).all())
    nothing = effects.read(attribute_heads_elsewhere(study, exact="none"))
    assert bool(nothing["logit_correct"].isnull().all())
    assert not bool(nothing["attribution"].isnull().any())


def test_by_default_the_first_samples_are_exact_everywhere(study):
    found = effects.read(attribute_heads(study, AttributionPatching(top=5)))
    there = found["logit_correct"].notnull().sum(("layer", "head", "token")).values
    cells = found["attribution"].isel(sample=0).notnull().sum().item()
    assert there.tolist() == [cells] * 3 + [5] * (len(there) - 3)
    exact = effects.read(attribute_heads_elsewhere(study, exact="all", top=5)).isel(sample=slice(3))
    xr.testing.assert_allclose(found["logit_correct"].isel(sample=slice(3)), exact["logit_correct"], atol=1e-5)
    rows = compare_estimates(found, 5)
    assert rows["samples"].tolist() == [3, 3]
    assert np.isfinite(rows["recall"]).all()


def attribute_heads_elsewhere(study, **options):
    study.options.out = study.options.out / "elsewhere"
    return attribute_heads(study, AttributionPatching(**options))


def test_in_the_noising_direction_the_gradient_is_the_clean_runs(study):
    study.options.direction = "noising"
    found = effects.read(attribute_heads(study, AttributionPatching(exact="all")))
    effect = found.effects.logit_difference()
    assert found.attrs["corruption"] == "sip-noising"
    pair = study.pairs("sip")[0][0]
    (ours,) = study.examples(pair, "sip")
    component = study.vlm.architecture.head_component
    estimate = attribution(study.vlm, capture(study.vlm, [ours], (component,)), component)
    position = len(pair.clean_prompt.ids) - 1
    if study.vlm.architecture.causal:
        np.testing.assert_allclose(found["attribution"].sel(token="last")[0], estimate[:, position], atol=1e-5)
    clean = found["clean_logit_correct"] - found["clean_logit_incorrect"]
    assert bool((clean > 0).all())  # the model is right where nothing is corrupted
    assert float(effect.mean()) < 0
    assert float(compare_estimates(found, 5).loc[("attribution", "each sample"), "rank_correlation"]) > 0.5


def test_draws_of_noise_are_kept_apart(study):
    study.options.corruption, study.options.corruption_options = "gaussian_noise", CorruptionOptions(noise_draws=2)
    found = effects.read(attribute_heads(study, AttributionPatching(exact="all")))
    assert found["attribution"].dims == ("sample", "draw", "layer", "head", "token")
    assert float(abs(found["attribution"].diff("draw")).max()) > 0
    assert np.isfinite(compare_estimates(found, 5)["rank_correlation"]).all()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_values(study, monkeypatch, tmp_path):
    real, count = method._of_pair, iter(range(2))

    def interrupted(*arguments, **named):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(method, "_of_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attribute_heads(study)
    redone = []
    monkeypatch.setattr(method, "_of_pair", lambda *arguments, **named: redone.append(1) or real(*arguments, **named))
    resumed = effects.read(attribute_heads(study))
    assert len(redone) == resumed.sizes["sample"] - 2
    study.options.out = tmp_path / "whole"
    xr.testing.assert_identical(resumed.drop_attrs(), effects.read(attribute_heads(study)).drop_attrs())


def test_wrong_options_are_refused(study):
    with pytest.raises(ValueError, match=r"'mlp' of .* has no heads; choose from"):
        attribute_heads(study, AttributionPatching(component="mlp"))
    with pytest.raises(ValueError, match="--steps must be at least 0, not -1"):
        attribute_heads(study, AttributionPatching(steps=-1))
    with pytest.raises(ValueError, match="--exact-samples must be at least 0, not -1"):
        attribute_heads(study, AttributionPatching(exact_samples=-1))
    with pytest.raises(ValueError, match="no token has the role 'verb'"):
        attribute_heads(study, AttributionPatching(tokens=("verb",)))


# ---------------------------------------------------------------------- agreement


def by_hand(estimate, exact, top):
    """Spearman's correlation as Pearson's of the ranks, the recall and the share of equal signs, cell by cell."""

    def ranks(values):
        return [sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values]

    a, b = ranks(estimate), ranks(exact)
    da, db = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
    correlation = sum(x * y for x, y in zip(da, db, strict=True)) / (sum(x * x for x in da) * sum(y * y for y in db)) ** 0.5
    best = [sorted(range(len(v)), key=lambda i: (-abs(v[i]), i))[:top] for v in (estimate, exact)]
    signs = [(x > 0) == (y > 0) for x, y in zip(estimate, exact, strict=True) if y != 0 and x != 0]
    return correlation, len(set(best[0]) & set(best[1])) / top, sum(signs) / len(signs)


def attributions(estimate, exact):
    dims = ("sample", "layer", "head", "token")
    clean = np.zeros(len(exact))
    return xr.Dataset(
        {
            "attribution": (dims, estimate),
            "logit_correct": (dims, exact + 2),
            "logit_incorrect": (dims, exact * 0 + 1),
            "corrupt_logit_correct": ("sample", clean + 3),
            "corrupt_logit_incorrect": ("sample", clean + 2),
        },
        {"token": [f"role {number}" for number in range(exact.shape[-1])]},
    )


def test_agreement_is_what_a_slow_computation_gives():
    rng = np.random.default_rng(0)
    exact = rng.integers(-4, 5, (3, 2, 3, 4)).astype(float)  # with ties, and zeros
    estimate = exact + rng.normal(0, 2, exact.shape)
    rows = compare_estimates(attributions(estimate, exact), top=5)
    columns = ["rank_correlation", "recall", "same_sign"]
    each = np.mean([by_hand(estimate[i].ravel().tolist(), exact[i].ravel().tolist(), 5) for i in range(3)], 0)
    np.testing.assert_allclose(rows.loc[("attribution", "each sample"), columns].astype(float), each)
    mean = by_hand(estimate.mean(0).ravel().tolist(), exact.mean(0).ravel().tolist(), 5)
    np.testing.assert_allclose(rows.loc[("attribution", "mean"), columns].astype(float), mean)
    assert rows["cells"].tolist() == [24, 24]
    numbered = attributions(estimate, exact).assign_coords(token=range(4))  # every token by itself: no two samples' line up
    assert compare_estimates(numbered, top=5).index.tolist() == [("attribution", "each sample")]


def test_agreement_is_judged_by_samples_of_which_all_cells_are_exact():
    exact = np.array([[[[1.0, np.nan, -2.0, np.nan]]], [[[3.0, 0.0, -1.0, 2.0]]], [[[4.0, 4.0, 4.0, 4.0]]]])
    estimate = np.array([[[[-2.0, 0.1, 1.0, 0.1]]], [[[2.0, 0.0, -3.0, 1.0]]], [[[1.0, 2.0, 3.0, 4.0]]]])
    rows = compare_estimates(attributions(estimate, exact), top=2)
    row = rows.loc[("attribution", "each sample")]
    assert (row["samples"], row["cells"], row["same_sign"]) == (2, 4, 1)
    assert row["rank_correlation"] == pytest.approx(1)  # equal effects, in the last sample, have none
    assert row["recall"] == pytest.approx((1 / 2 + 0 / 2) / 2)
    assert rows["samples"].tolist() == [2, 2]
    assert compare_estimates(attributions(estimate, exact)[{"sample": [0]}], top=2).empty


def test_the_script_prints_the_agreement_and_the_file(tmp_path, data, monkeypatch, capsys):
    arguments = ["--model", "blip-shapes", "--data", data, "--samples", "1", "--out", str(tmp_path / "results"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["attribution_patching", *arguments])
    attribution_patching.main()
    printed = capsys.readouterr().out
    assert "rank_correlation" in printed.splitlines()[0]
    assert "NaN" not in printed
    assert printed.splitlines()[-1].endswith("cross_attention-attribution.nc")
    monkeypatch.setattr(sys, "argv", ["attribution_patching", *arguments, "--exact", "none", "--overwrite"])
    attribution_patching.main()
    assert "not known: no sample has all its cells patched exactly" in capsys.readouterr().out


def test_the_divergence_is_that_of_head_patching(study):
    study.options.divergence = True
    exact = effects.read(attribute_heads(study, AttributionPatching(exact="all")))
    patched = effects.read(patch_heads(study))
    xr.testing.assert_allclose(exact.kl_from_clean, patched.kl_from_clean, atol=1e-5)
    xr.testing.assert_allclose(exact.corrupt_kl_from_clean, patched.corrupt_kl_from_clean, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_estimates_that_are_wrong_stop_the_run(study, monkeypatch, steps):
    name = "integrated_attribution" if steps else "attribution"
    real = getattr(method, name)
    monkeypatch.setattr(method, name, lambda *arguments: real(*arguments) + 0.01)
    with pytest.raises(VerificationError, match=r"attribution of .*_attention, layer \d, of .*-shapes: among others .* by itself"):
        attribute_heads(study, AttributionPatching(steps=steps))
    assert not list(study.folder.rglob("*.npz"))
