"""The sweep against raw PyTorch hooks and against the plain path; identities that patching must satisfy exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.models import llava
from interventions.engine import sweep as sweep_module
from interventions.engine.capture import BASE, SOURCE, capture, example
from interventions.engine.oracle.patching import run_plain
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import Patch, patches, window_of
from interventions.engine.sweep import Run, changing_runs, run_together, sweep
from interventions.models.vlm import Scored
from interventions.results.roles import Cell, every_token, roles
from tests.support.hooks import answer_logits, layers_and_modules, patched_logits

GRANULARITIES = ("module", "heads")
TOLERANCE = 1e-5


def example_of(vlm, pair):
    answers = [pair.sample[name] for name in ("correct_answer", "incorrect_answer")]
    return example(vlm, prepare_pair(vlm, pair, vlm.scored(pair.clean_question, *answers)))


def captured_pair(vlm, pair, components=None):
    ours = example_of(vlm, pair)
    return capture(vlm, [ours], components or vlm.architecture.components), ours


def sweep_one(vlm, captured, patches, tokens=None):
    (measured,) = sweep(vlm, captured, [patches], tokens)
    return measured


def hooked(vlm, example, patch):
    """The measurements of a patched run by raw hooks."""
    pixels, columns = example.pixels["pixel_values"].flatten(0, 1), columns_of(vlm, patch)
    logits = patched_logits(vlm.module, example.ids, pixels, patch.component, patch.layers, patch.positions, columns, example.forced)
    return torch.stack([*logits[list(example.answers)], logits.logsumexp(-1)])


def all_patches(vlm, pair, component, heads):
    prompt = vlm.prompt(pair.clean_question)
    cells = every_token(prompt, roles(prompt, pair, vlm.architecture.causal))
    return patches(component, vlm.n_layers, vlm.n_heads if heads else None, cells)


def columns_of(vlm, patch):
    return slice(None) if patch.head is None else slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)


@pytest.mark.parametrize("corruption", ["sip", "str"])
@pytest.mark.parametrize("component", ["self_attention", "cross_attention", "mlp", "block"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_sweep_agrees_with_raw_hooks_and_with_the_plain_path(vlm, make_pair, corruption, component, granularity):
    if component not in vlm.architecture.components or (granularity == "heads" and component not in vlm.architecture.attention):
        pytest.skip(f"{vlm.architecture.name} has no {component} {granularity}")
    pair = make_pair(vlm, corruption, number=1)
    captured, ours = captured_pair(vlm, pair)
    every = all_patches(vlm, pair, component, granularity == "heads")
    measured = sweep_one(vlm, captured, every, tokens=300)  # several traces
    rng = np.random.default_rng(0)
    for index in rng.choice(len(every), size=24, replace=False):
        oracle = hooked(vlm, ours, every[index])
        torch.testing.assert_close(measured[index], oracle, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(run_plain(vlm, ours, every[index]), oracle, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_samples_of_unequal_length_in_one_trace_agree_with_raw_hooks(vlm, shapes, make_pair, corruption):
    pairs = [make_pair(vlm, corruption, number) for number in range(8)]
    examples = [example_of(vlm, pair) for pair in pairs]
    lengths = [ours.ids.shape[1] for ours in examples]
    assert len(set(lengths)) > 1
    captured = capture(vlm, examples, vlm.architecture.components)
    rng = np.random.default_rng(1)
    for component in vlm.architecture.components:
        heads = component in vlm.architecture.attention
        every = [all_patches(vlm, pair, component, heads)[:: 7 if heads else 3] for pair in pairs]
        every[3] = []  # a sample may have nothing to patch
        measured = sweep(vlm, captured, every, tokens=900)
        assert [len(rows) for rows in measured] == [len(patches) for patches in every]
        for number in rng.choice([0, 1, 2, 4, 5, 6, 7], 4, replace=False):
            for index in rng.choice(len(every[number]), 4, replace=False):
                oracle = hooked(vlm, examples[number], every[number][index])
                torch.testing.assert_close(measured[number][index], oracle, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_windows_of_layers_agree_with_raw_hooks(vlm, make_pair, corruption):
    pair = make_pair(vlm, corruption)
    captured, ours = captured_pair(vlm, pair)
    prompt = vlm.prompt(pair.clean_question)
    cells = every_token(prompt, roles(prompt, pair, vlm.architecture.causal))[-4:]
    for component in vlm.architecture.components:
        heads = vlm.n_heads if component in vlm.architecture.attention else None
        every = patches(component, vlm.n_layers, heads, cells, window=3)
        assert (every[0].layers, every[-1].layers) == ((0, 1), (vlm.n_layers - 2, vlm.n_layers - 1))
        measured = sweep_one(vlm, captured, every)
        for index in np.random.default_rng(2).choice(len(every), 8, replace=False):
            torch.testing.assert_close(measured[index], hooked(vlm, ours, every[index]), atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(measured[index], run_plain(vlm, ours, every[index]), atol=TOLERANCE, rtol=0)


def test_answers_told_apart_after_forced_tokens_agree_with_raw_hooks(vlm, make_pair):
    """Pairs with none, one and two of them in one trace; a decoder's prompt goes on with them."""
    pairs = [make_pair(vlm, "sip", number) for number in range(3)]
    examples = [example(vlm, prepare_pair(vlm, pair, Scored(5, 6, forced))) for pair, forced in zip(pairs, ((), (7,), (8, 9)), strict=True)]
    ended = [ours.ids.shape[1] - len(vlm.prompt(pair.clean_question).ids) for ours, pair in zip(examples, pairs, strict=True)]
    assert ended == ([0, 1, 2] if vlm.architecture.causal else [0, 0, 0])
    captured = capture(vlm, examples, ("self_attention",))
    every = [patches("self_attention", vlm.n_layers, vlm.n_heads, [Cell("", "", (ours.ids.shape[1] - 1, 2))]) for ours in examples]
    for ours, mine, rows in zip(examples, every, sweep(vlm, captured, every), strict=True):
        for patch, row in list(zip(mine, rows, strict=True))[::6]:
            torch.testing.assert_close(row, hooked(vlm, ours, patch), atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(run_plain(vlm, ours, patch), row, atol=TOLERANCE, rtol=0)


def test_window_of_layers():
    """ROME's: half of the window below the centre, and an even one reaches one further down than up."""
    assert [window_of(layer, 1, 4) for layer in range(4)] == [(0,), (1,), (2,), (3,)]
    assert [window_of(layer, 2, 4) for layer in range(4)] == [(0,), (0, 1), (1, 2), (2, 3)]
    assert [window_of(layer, 3, 4) for layer in range(4)] == [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]
    assert window_of(5, 6, 12) == (2, 3, 4, 5, 6, 7)


def test_a_model_that_cannot_be_packed_takes_the_batched_path_and_says_so(make_pair, caplog):
    """Attention that slides over fewer tokens than the prompt has; and the same model with a window that is long enough."""
    for window, batched in ((200, True), (4096, False)):
        vlm = llava(layers=3, heads=4, width=64, feed_forward=96, vision_layers=1, vision_width=64, sliding_window=window)
        pair = make_pair(vlm, "sip")
        captured, ours = captured_pair(vlm, pair)
        assert vlm.packs_from(captured.ids[0])[0] == (captured.lengths[0] if batched else 0)
        last = captured.lengths[0] - 1
        for component, heads in (("self_attention", vlm.n_heads), ("mlp", None), ("block", None)):
            every = patches(component, vlm.n_layers, heads, [Cell("", "", (at,)) for at in (last, last - 8, 10)])
            caplog.clear()
            measured = sweep_one(vlm, captured, every)
            for patch, row in zip(every, measured, strict=True):
                torch.testing.assert_close(row, hooked(vlm, ours, patch), atol=TOLERANCE, rtol=0)
            if component == "self_attention":
                assert ("slides over a window of 200 tokens" in caplog.text) == batched


@pytest.mark.parametrize("component", ["self_attention", "mlp"])
def test_sweep_agrees_with_raw_hooks_where_heads_share_keys_and_values(make_pair, component):
    """Grouped-query attention: 4 heads on 2 key-value heads, random weights."""
    vlm = llava(layers=3, heads=4, width=64, feed_forward=96, vision_layers=1, vision_width=64, key_value_heads=2)
    pair = make_pair(vlm, "sip")
    captured, ours = captured_pair(vlm, pair)
    last = captured.lengths[0] - 1
    heads = vlm.n_heads if component == "self_attention" else None
    every = patches(component, vlm.n_layers, heads, [Cell("", "", (at,)) for at in (last, last - 8, 10)])
    measured = sweep_one(vlm, captured, every)
    for patch, row in zip(every, measured, strict=True):
        torch.testing.assert_close(row, hooked(vlm, ours, patch), atol=TOLERANCE, rtol=0)


def test_baselines_are_those_of_the_model_alone(vlm, make_pair):
    captured, ours = captured_pair(vlm, make_pair(vlm, "sip"))
    pixels = ours.pixels["pixel_values"].flatten(0, 1)
    with torch.no_grad():
        logits = torch.cat([answer_logits(vlm.module, ours.ids[[run]], pixels[[run]]) for run in (SOURCE, BASE)])
    torch.testing.assert_close(captured.measured[0, :, :2], logits[:, list(ours.answers)], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(captured.measured[0, :, 2], logits.logsumexp(-1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_corrupt_into_corrupt_has_no_effect(vlm, make_pair, corruption):
    pair = make_pair(vlm, corruption)
    captured, _ = captured_pair(vlm, pair)
    same = {name: states[:, [BASE, BASE]] for name, states in captured.states.items()}
    identity = dataclasses.replace(captured, states=same)
    for component in vlm.architecture.components:
        every = all_patches(vlm, pair, component, heads=False)
        expected = captured.measured[0, BASE].expand(len(every), -1)
        assert torch.equal(sweep_one(vlm, identity, every), expected)
        runs = [Run(0, i, patch, {patch.layers[0]: patch.positions}, 0) for i, patch in enumerate(every)]
        through_the_model = run_together(vlm, identity, sorted(runs, key=lambda run: run.first_layer))
        torch.testing.assert_close(through_the_model, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("corruption", ["sip", "str"])
def test_all_tokens_of_block_give_the_clean_run(vlm, make_pair, corruption):
    """At any layer; but BLIP's later layers read the corrupt image again, so under image corruption at its last layer."""
    captured, _ = captured_pair(vlm, make_pair(vlm, corruption))
    everywhere = tuple(range(captured.lengths[0]))
    reread = vlm.architecture.name == "blip" and corruption == "sip"
    layers = [vlm.n_layers - 1] if reread else range(vlm.n_layers)
    measured = sweep_one(vlm, captured, [Patch("block", (layer,), None, everywhere) for layer in layers])
    clean, corrupt = captured.measured[0]
    torch.testing.assert_close(measured, clean.expand(len(measured), -1), atol=TOLERANCE, rtol=0)
    assert (clean - corrupt).abs().max() > 0.1  # there was something to restore


def test_tokens_before_the_first_change_of_a_causal_prompt_are_not_run(llava, make_pair):
    captured, ours = captured_pair(llava, make_pair(llava, "str"))
    first = int((ours.ids[SOURCE] != ours.ids[BASE]).nonzero()[0])
    for position in (0, first - 1):
        assert changing_runs(llava, captured, [[Patch("block", (llava.n_layers - 1,), None, (position,))]]) == [[]]
    everywhere = Patch("block", (llava.n_layers - 1,), None, tuple(range(captured.lengths[0])))
    ((run,),) = changing_runs(llava, captured, [[everywhere]])
    assert run.start == first
    assert run.sites == {llava.n_layers - 1: tuple(range(first, captured.lengths[0]))}


def test_a_trace_that_does_not_fit_is_halved(vlm, make_pair, monkeypatch):
    """Down to the runs that fit, of several samples; the numbers stay the same."""
    pairs = [make_pair(vlm, "sip", number) for number in range(3)]
    captured = capture(vlm, [example_of(vlm, pair) for pair in pairs], ("mlp",))
    every = [all_patches(vlm, pair, "mlp", heads=False)[:20] for pair in pairs]
    whole = sweep(vlm, captured, every)
    real, sizes = sweep_module.run_together, []

    def small_device(vlm, captured, runs):
        sizes.append(len(runs))
        if len(runs) > 3:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, runs)

    monkeypatch.setattr(sweep_module, "run_together", small_device)
    for found, expected in zip(sweep(vlm, captured, every), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert max(sizes) > 3
    monkeypatch.setattr(sweep_module, "run_together", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none fits")))
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
