"""The sweep against raw PyTorch hooks and against the plain path; identities that patching must satisfy exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.models import llava
from interventions import sweep as sweep_module
from interventions.capture import CLEAN, CORRUPT, capture, prompts_of
from interventions.plain import run_plain
from interventions.plan import Patch, patches
from interventions.roles import Cell, every_token, roles
from interventions.sweep import changes, run_packed, sweep
from tests.hooks import answer_logits, layers_and_modules, patched_logits

GRANULARITIES = ("module", "heads")
TOLERANCE = 1e-5


def captured_pair(vlm, pair, components=None):
    pixels = vlm.pixels([pair.clean_image, pair.corrupt_image])
    answers = tuple(vlm.answer_id(pair.clean_question, pair.sample[name]) for name in ("correct_answer", "incorrect_answer"))
    return capture(vlm, vlm.ids(prompts_of(vlm, pair)), pixels, answers, components or vlm.architecture.components), pixels


def all_patches(vlm, pair, component, heads):
    prompt = vlm.prompt(pair.clean_question)
    cells = every_token(prompt, roles(prompt, pair, vlm.architecture.causal))
    return patches(component, vlm.n_layers, vlm.n_heads if heads else None, cells)


def columns(vlm, patch):
    return slice(None) if patch.head is None else slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)


@pytest.mark.parametrize("corruption", ["sip", "str"])
@pytest.mark.parametrize("component", ["self_attention", "cross_attention", "mlp", "block"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_sweep_agrees_with_raw_hooks_and_with_the_plain_path(vlm, make_pair, corruption, component, granularity):
    if component not in vlm.architecture.components or (granularity == "heads" and component not in vlm.architecture.attention):
        pytest.skip(f"{vlm.architecture.name} has no {component} {granularity}")
    pair = make_pair(vlm, corruption, number=1)
    captured, pixels = captured_pair(vlm, pair)
    every = all_patches(vlm, pair, component, granularity == "heads")
    measured = sweep(vlm, captured, every, tokens=300)  # several traces
    rng = np.random.default_rng(0)
    for index in rng.choice(len(every), size=24, replace=False):
        patch = every[index]
        logits = patched_logits(vlm.module, captured.ids, pixels, component, patch.layer, patch.positions, columns(vlm, patch))
        oracle = torch.stack([*logits[list(captured.answers)], logits.logsumexp(-1)])
        torch.testing.assert_close(measured[index], oracle, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(run_plain(vlm, captured, pixels, patch), oracle, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("component", ["self_attention", "mlp"])
def test_sweep_agrees_with_raw_hooks_where_heads_share_keys_and_values(make_pair, component):
    """Grouped-query attention: 4 heads on 2 key-value heads, random weights."""
    vlm = llava(layers=3, heads=4, width=64, feed_forward=96, vision_layers=1, vision_width=64, key_value_heads=2)
    pair = make_pair(vlm, "sip")
    captured, pixels = captured_pair(vlm, pair)
    last = captured.ids.shape[1] - 1
    heads = vlm.n_heads if component == "self_attention" else None
    every = patches(component, vlm.n_layers, heads, [Cell("", "", (at,)) for at in (last, last - 8, 10)])
    measured = sweep(vlm, captured, every)
    for patch, row in zip(every, measured, strict=True):
        logits = patched_logits(vlm.module, captured.ids, pixels, component, patch.layer, patch.positions, columns(vlm, patch))
        oracle = torch.stack([*logits[list(captured.answers)], logits.logsumexp(-1)])
        torch.testing.assert_close(row, oracle, atol=TOLERANCE, rtol=0)


def test_baselines_are_those_of_the_model_alone(vlm, make_pair):
    captured, pixels = captured_pair(vlm, make_pair(vlm, "sip"))
    with torch.no_grad():
        logits = torch.cat([answer_logits(vlm.module, captured.ids[[run]], pixels[[run]]) for run in (CLEAN, CORRUPT)])
    torch.testing.assert_close(captured.measured[:, :2], logits[:, list(captured.answers)], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(captured.measured[:, 2], logits.logsumexp(-1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_corrupt_into_corrupt_has_no_effect(vlm, make_pair, corruption):
    pair = make_pair(vlm, corruption)
    captured, _ = captured_pair(vlm, pair)
    same = {name: states[[CORRUPT, CORRUPT]] for name, states in captured.states.items()}
    identity = dataclasses.replace(captured, states=same)
    for component in vlm.architecture.components:
        every = all_patches(vlm, pair, component, heads=False)
        assert torch.equal(sweep(vlm, identity, every), captured.measured[CORRUPT].expand(len(every), -1))
        through_the_model = run_packed(vlm, identity, every)
        torch.testing.assert_close(through_the_model, captured.measured[CORRUPT].expand(len(every), -1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_all_tokens_of_block_give_the_clean_run(vlm, make_pair, corruption):
    """At any layer; but BLIP's later layers read the corrupt image again, so under image corruption at its last layer."""
    captured, _ = captured_pair(vlm, make_pair(vlm, corruption))
    everywhere = tuple(range(captured.ids.shape[1]))
    reread = vlm.architecture.name == "blip" and corruption == "sip"
    layers = [vlm.n_layers - 1] if reread else range(vlm.n_layers)
    measured = sweep(vlm, captured, [Patch("block", layer, None, everywhere) for layer in layers])
    torch.testing.assert_close(measured, captured.measured[CLEAN].expand(len(measured), -1), atol=TOLERANCE, rtol=0)
    assert (captured.measured[CLEAN] - captured.measured[CORRUPT]).abs().max() > 0.1  # there was something to restore


def test_tokens_before_the_first_change_of_a_causal_prompt_are_not_run(llava, make_pair):
    pair = make_pair(llava, "str")
    captured, _ = captured_pair(llava, pair)
    first = int((captured.ids[CLEAN] != captured.ids[CORRUPT]).nonzero()[0])
    for position in (0, first - 1):
        assert not changes(llava, captured, Patch("block", llava.n_layers - 1, None, (position,)))
    assert changes(llava, captured, Patch("block", llava.n_layers - 1, None, (first,)))


def test_a_trace_that_does_not_fit_is_halved(vlm, make_pair, monkeypatch):
    """Down to the patches that fit; the numbers stay the same."""
    captured, _ = captured_pair(vlm, make_pair(vlm, "sip"))
    every = all_patches(vlm, make_pair(vlm, "sip"), "mlp", heads=False)[:20]
    whole = sweep(vlm, captured, every)
    real, sizes = sweep_module.run_packed, []

    def small_device(vlm, captured, patches):
        sizes.append(len(patches))
        if len(patches) > 3:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, patches)

    monkeypatch.setattr(sweep_module, "run_packed", small_device)
    torch.testing.assert_close(sweep(vlm, captured, every), whole, atol=TOLERANCE, rtol=0)
    assert max(sizes) > 3
    monkeypatch.setattr(sweep_module, "run_packed", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none fits")))
    with pytest.raises(torch.OutOfMemoryError):
        sweep(vlm, captured, every)


def output_projection(layer, component):
    if hasattr(layer, "self_attn"):
        return layer.self_attn.o_proj
    return layer.attention.output.dense if component == "self_attention" else layer.crossattention.output.dense


def test_heads_sum_to_the_attention_output(vlm, make_pair):
    """W_O z over heads, plus the bias, is what the attention adds."""
    pair = make_pair(vlm, "sip")
    pixels = vlm.pixels([pair.clean_image])
    ids = vlm.ids([vlm.prompt(pair.clean_question)])
    hooked_layers, _ = layers_and_modules(vlm.module)
    for component in vlm.architecture.attention:
        for number, layer in enumerate(vlm.layers):
            linear = output_projection(hooked_layers[number], component)
            kept = []
            handle = linear.register_forward_hook(lambda _, inputs, output, kept=kept: kept.append(output.clone()))
            with torch.no_grad(), vlm.model.trace(**vlm.inputs(ids, pixels)):
                z = vlm.port(component).read(layer).clone().save()
            handle.remove()
            weights = linear.weight.reshape(vlm.width, vlm.n_heads, vlm.head_dim)
            parts = torch.einsum("rthd,whd->rthw", z.unflatten(-1, (vlm.n_heads, vlm.head_dim)), weights)
            bias = 0 if linear.bias is None else linear.bias
            torch.testing.assert_close(parts.sum(2) + bias, kept[-1], atol=TOLERANCE, rtol=1e-5)
