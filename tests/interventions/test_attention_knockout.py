"""Blocked attention, against plain PyTorch hooks that take probabilities away after the softmax; and the files of attention knockout."""

import dataclasses
import json
import sys
from contextlib import nullcontext
from operator import attrgetter

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from transformers import DynamicCache

from benchmarks.models import llava as random_llava
from corruptions.base import LeftOut
from data_prep.tables import schema as sample_table
from interventions import attention_knockout as knockout_script
from interventions.attention_knockout import knock_out_attention
from interventions.backends.opening import prepare
from interventions.engine import blocking
from interventions.engine.blocking import Block, sweep_blocks
from interventions.engine.capture import BASE, Example, capture, example
from interventions.engine.edges import Places
from interventions.engine.oracle.knockout import run_plain, verify_blocks
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.pairs import prepare_pair
from interventions.methods.attention_knockout import ANSWER_EDGES, DECODER_EDGES, ENCODER_EDGES, default_edges, default_window
from interventions.methods.options import AttentionKnockout
from interventions.models.loading import wrap
from interventions.models.parts import part_of
from interventions.results import effects
from interventions.results.store import StoreError
from interventions.study.options import Options
from tests.interventions.models.test_architectures import LAYERS, QUESTIONS, pictures
from tests.support import zoo
from tests.support.hooks import answer_logits

TOLERANCE = 1e-5
OBJECT, BACKGROUND = (9, 10, 17), (0, 1, 2, 60)  # some image patches


def attention_modules(module, layers, number):
    """The attention modules of a layer by component, from the models' code."""
    layer = layers[number]
    if hasattr(layer, "crossattention"):
        return {"self_attention": layer.attention.self, "cross_attention": layer.crossattention.self}
    return {"cross_attention": layer.cross_attn} if hasattr(layer, "cross_attn") else {"self_attention": layer.self_attn}


@torch.no_grad()
def hooked(run, modules, block):
    """Logits of `run()` where attention probabilities of some (module, component) are set to 0 after the softmax and the rest renormalised.

    The models must compute attention in the eager way, which gives the probabilities.
    """

    def put(component):
        def hook(attention, arguments, options, output):
            hidden, image = options.get("hidden_states", arguments[0] if arguments else None), None
            for name in ("encoder_hidden_states", "cross_attention_states"):
                image = options.get(name) if image is None else image
            values = (attention.value if hasattr(attention, "value") else attention.v_proj)(hidden if image is None else image)
            weights = output[1].clone()
            values = values.reshape(1, -1, kv_heads(attention), values.shape[-1] // kv_heads(attention)).transpose(1, 2)
            values = values.repeat_interleave(weights.shape[1] // values.shape[1], 1)
            keys = block.keys.get(component, ())
            for query in block.queries:
                weights[0, :, query, slice(None) if keys is None else list(keys)] = 0
            total = weights.sum(-1, keepdim=True)
            weights = torch.where(total > 0, weights / total.clamp(min=1e-30), 0)
            z = (weights @ values).transpose(1, 2).flatten(2)
            for name in ("o_proj", "out_proj"):
                z = getattr(attention, name)(z) if hasattr(attention, name) else z
            return (z, *output[1:])

        return hook

    handles = [attention.register_forward_hook(put(component), with_kwargs=True) for attention, component in modules]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


def kv_heads(attention):
    return getattr(attention.config, "num_key_value_heads", attention.config.num_attention_heads)


def oracle(vlm, layers, run, block, answers, keep=None):
    modules = [
        (attention, component)
        for number in block.layers
        for component, attention in attention_modules(vlm.module, layers, number).items()
        if component in block.keys
    ]
    eager = vlm.module.config.get_text_config()._attn_implementation == "eager"  # Gemma 2 has no other
    with nullcontext() if eager else vlm.showing_attention():
        logits = hooked(run, modules, block)
    if keep:
        keep(logits)
    return torch.stack([*logits[list(answers)], logits.logsumexp(-1)])


def shipped(vlm, pair, keep=None):
    """A pair whose clean run is blocked: as an example, and by hooks."""
    answers = [pair.sample[name] for name in ("correct_answer", "incorrect_answer")]
    ours = example(vlm, prepare_pair(vlm, pair, vlm.scored(pair.clean_question, *answers)), base="clean")
    module = vlm.module
    layers = module.text_encoder.encoder.layer if hasattr(module, "text_encoder") else module.model.language_model.layers

    def by_hooks(block):
        pixels = ours.pixels["pixel_values"][BASE]
        return oracle(vlm, layers, lambda: answer_logits(module, ours.ids[BASE:], pixels, ours.forced)[0], block, ours.answers, keep)

    return ours, by_hooks


def image_positions(vlm, ids):
    return tuple((ids == vlm.image_token_id).nonzero().flatten().tolist())


def blocks_of_all_kinds(vlm, ids):
    """Edges between image, text and single tokens, in one layer, in a window and in all."""
    last, every = len(ids) - 1, tuple(range(len(ids)))
    if vlm.architecture.causal:
        image = image_positions(vlm, ids)
        text = tuple(range(image[-1] + 1, len(ids)))
        patches = tuple(image[i] for i in OBJECT if i < len(image))
        sides = [
            (text[2:-4], image), (text[2:-4], patches), ((last,), image), ((last,), text[2:-4]), ((last,), (last,)),
            ((last,), every), ((0,), (0,)), (every, image), (text, text), (image, patches),
        ]  # fmt: skip
        keyed = [(queries, {"self_attention": keys}) for queries, keys in sides]
    else:
        patches = tuple(range(65))
        keyed = [
            ((3, 4), {"cross_attention": patches}), ((3, 4), {"cross_attention": OBJECT}), (every, {"cross_attention": patches}),
            ((2,), {"self_attention": (5, 6)}), (every, {"self_attention": every}), ((last,), {"self_attention": (last,)}),
            ((1, 2), {"self_attention": (1, 7), "cross_attention": BACKGROUND}),
        ]  # fmt: skip
    windows = [(0,), (2, 3), tuple(range(vlm.n_layers))]
    return [Block(layers, queries, keys) for queries, keys in keyed for layers in windows]


@pytest.mark.parametrize("number", [0, 3])
def test_blocked_runs_agree_with_hooks_and_with_the_plain_path(vlm, make_pair, number):
    ours, by_hooks = shipped(vlm, make_pair(vlm, "sip", number))
    blocks = blocks_of_all_kinds(vlm, ours.ids[BASE])
    captured = capture(vlm, [ours], ())
    measured = sweep_blocks(vlm, captured, blocks)
    for block, row in zip(blocks, measured, strict=True):
        torch.testing.assert_close(row, by_hooks(block), atol=TOLERANCE, rtol=0)
    for block, row in list(zip(blocks, measured, strict=True))[::2]:
        torch.testing.assert_close(run_plain(vlm, ours, block), row, atol=TOLERANCE, rtol=0)
    changed = (measured - captured.measured[0, BASE]).abs().amax(1) > 1e-3
    assert changed.sum() > len(blocks) // 2


@pytest.mark.parametrize("name", zoo.NAMES)
def test_blocked_runs_of_other_architectures_agree_with_hooks(name):
    """Among them positions on three axes, image tokens that read each other, prompts that read themselves, layers of two kinds."""
    module, processor = zoo.make(name)
    vlm = wrap(module, processor, name)
    image, prompt = pictures(1)[0], vlm.prompt(QUESTIONS[0])
    inputs = vlm.processed(vlm.template(QUESTIONS[0])[0], image)
    inputs.pop("labels", None)
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels([image, image]), (5, 6))
    last, red = len(prompt.ids) - 1, prompt.positions((20, 23))
    keys = image_positions(vlm, ours.ids[BASE])
    every = [((last,), keys), (red, keys[::2]), ((last,), red), ((last, *red), tuple(range(last + 1)))]
    every = [(queries, {"self_attention": seen}) for queries, seen in [*every, (keys, keys[:3])]]
    if "cross_attention" in vlm.architecture.components:
        every += [((last,), {"cross_attention": None}), ((*red, last), {"cross_attention": None, "self_attention": red})]
    windows = [(1,), tuple(range(vlm.n_layers))]
    blocks = [Block(layers, queries, seen) for queries, seen in every for layers in windows]
    captured = capture(vlm, [ours], ())
    layers = attrgetter(LAYERS[name])(module)
    for block, row in zip(blocks, sweep_blocks(vlm, captured, blocks), strict=True):
        expected = oracle(vlm, layers, lambda: module(**inputs).logits[0, -1], block, ours.answers)
        torch.testing.assert_close(row, expected, atol=5e-5, rtol=0)
        torch.testing.assert_close(run_plain(vlm, ours, block), expected, atol=5e-5, rtol=0)


def test_blocks_that_cannot_be_packed_agree_with_hooks_and_say_so(make_pair, caplog):
    """Attention that slides over fewer tokens than the prompt has: what is out of the window stays unseen."""
    vlm = random_llava(layers=3, heads=4, width=64, feed_forward=96, vision_layers=1, vision_width=64, sliding_window=200)
    ours, by_hooks = shipped(vlm, make_pair(vlm, "sip"))
    last = ours.ids.shape[1] - 1
    blocks = [
        Block(layers, (last, last - 3), {"self_attention": keys}) for layers in ((1,), (0, 1, 2)) for keys in ((last - 150, last - 4),)
    ]
    for block, row in zip(blocks, sweep_blocks(vlm, capture(vlm, [ours], ()), blocks), strict=True):
        torch.testing.assert_close(row, by_hooks(block), atol=TOLERANCE, rtol=0)
    assert "slides over a window of 200 tokens" in caplog.text


def test_blocking_nothing_changes_nothing(vlm, make_pair):
    """No key, no layer that is reached, or keys that are not seen anyway."""
    ours, _ = shipped(vlm, make_pair(vlm, "sip"))
    last, layers = ours.ids.shape[1] - 1, tuple(range(vlm.n_layers))
    blocks = [Block(layers, (last,), {}), Block(layers, (3, last), {"self_attention": ()})]
    blocks += [Block(layers, (2, 5), {"self_attention": (6, last)})] if vlm.architecture.causal else []
    captured = capture(vlm, [ours], ())
    clean = captured.measured[0, BASE]
    torch.testing.assert_close(sweep_blocks(vlm, captured, blocks), clean.expand(len(blocks), -1), atol=1e-5, rtol=0)
    for block in blocks:
        torch.testing.assert_close(run_plain(vlm, ours, block), clean, atol=1e-5, rtol=0)


def test_blocking_the_image_from_a_token_is_removing_it_from_its_keys(llava, make_pair):
    """The last token, by a cache from which the image's keys and values are cut out."""
    ours, _ = shipped(llava, make_pair(llava, "sip"))
    ids, image = ours.ids[BASE:], image_positions(llava, ours.ids[BASE])
    last = ids.shape[1] - 1
    block = Block(tuple(range(llava.n_layers)), (last,), {"self_attention": image})
    (measured,) = sweep_blocks(llava, capture(llava, [ours], ()), [block])
    kept = [i for i in range(last) if i not in image]
    with torch.no_grad():
        before = llava.module(input_ids=ids[:, :-1], pixel_values=ours.pixels["pixel_values"][BASE], use_cache=True).past_key_values
        cut = DynamicCache([(layer.keys[:, :, kept], layer.values[:, :, kept]) for layer in before.layers])
        text = llava.module.model.language_model(
            input_ids=ids[:, -1:], past_key_values=cut, position_ids=torch.tensor([[last]]), use_cache=True
        )
        logits = llava.module.lm_head(text.last_hidden_state)[0, -1]
    torch.testing.assert_close(measured[:2], logits[list(ours.answers)], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(measured[2], logits.logsumexp(-1), atol=TOLERANCE, rtol=0)


def test_without_the_image_the_answer_does_not_depend_on_it(vlm, make_pair):
    """Blocked from all text in every layer; and no number is NaN where a token sees nothing."""
    pair = make_pair(vlm, "sip")
    found = []
    for swap in (False, True):
        ours, _ = shipped(vlm, pair)
        ours = dataclasses.replace(ours, pixels={name: values.flip(0) for name, values in ours.pixels.items()}) if swap else ours
        ids = ours.ids[BASE]
        image = image_positions(vlm, ids) if vlm.architecture.causal else tuple(range(65))
        text = tuple(range(image[-1] + 1 if vlm.architecture.causal else 0, len(ids)))
        blocks = [Block(tuple(range(vlm.n_layers)), text, {vlm.architecture.head_component: image})]
        captured = capture(vlm, [ours], ())
        found.append((captured.measured[0, BASE], sweep_blocks(vlm, captured, blocks)[0]))
    (clean, blocked), (other_clean, other_blocked) = found
    assert (clean - other_clean).abs().max() > 0.1
    torch.testing.assert_close(blocked, other_blocked, atol=TOLERANCE, rtol=0)
    assert blocked.isfinite().all()


def test_traces_of_fewer_runs_give_the_same_numbers(vlm, make_pair, monkeypatch):
    """Cut by a number of tokens, or halved where memory does not do."""
    ours, _ = shipped(vlm, make_pair(vlm, "sip"))
    captured, blocks = capture(vlm, [ours], ()), blocks_of_all_kinds(vlm, ours.ids[BASE])
    whole, real, sizes = sweep_blocks(vlm, captured, blocks), blocking._run_together, []
    torch.testing.assert_close(sweep_blocks(vlm, captured, blocks, tokens=30), whole, atol=TOLERANCE, rtol=0)

    def small_device(vlm, captured, blocks, apart):
        sizes.append(len(blocks))
        if len(blocks) > 4:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, blocks, apart)

    monkeypatch.setattr(blocking, "_run_together", small_device)
    torch.testing.assert_close(sweep_blocks(vlm, captured, blocks), whole, atol=TOLERANCE, rtol=0)
    assert max(sizes) > 4


def test_a_wrong_sweep_is_found_out(llava, make_pair):
    ours, _ = shipped(llava, make_pair(llava, "sip"))
    blocks = blocks_of_all_kinds(llava, ours.ids[BASE])
    measured = sweep_blocks(llava, capture(llava, [ours], ()), blocks)
    verify_blocks(llava, ours, blocks, measured)
    with pytest.raises(VerificationError, match=r"blocked attention, .* of llava-shapes"):
        verify_blocks(llava, ours, blocks, measured + 0.01)


def test_default_window_is_the_papers_where_the_model_has_its_layers():
    assert [default_window(layers) for layers in (4, 6, 12, 24, 28, 32, 40)] == [1, 1, 3, 7, 7, 9, 9]


def test_edges_stand_where_a_plain_reading_of_the_sample_has_them(vlm, make_pair):
    """Patches of 8 x 8 pixels of a picture of 64 x 64; words by their places in the question."""
    pair = make_pair(vlm, "sip", 2)
    prompt = vlm.prompt(pair.clean_question)
    mask = np.asarray(pair.sample["object_mask"]) > 127
    touched = mask.reshape(8, 8, 8, 8).any((1, 3)).ravel()
    inside, outside = (np.flatnonzero(part) for part in (touched, ~touched))
    options = [i for answer in ("correct_answer", "incorrect_answer") for i in prompt.positions(_span(pair, pair.sample[answer]))]
    question = [i for i in range(len(prompt.ids)) if prompt.spans[i]]

    def keys(edge):
        (found,) = Places(vlm, prompt, pair).block(edge).keys.items()
        return found

    if vlm.architecture.causal:
        first = prompt.kinds.index("image")
        assert keys("object:question") == ("self_attention", tuple(first + inside))
        assert keys("background:last") == ("self_attention", tuple(first + outside))
        assert keys("image:last") == ("self_attention", tuple(range(first, first + 64)))
        assert Places(vlm, prompt, pair).block("last:last") == Block((), (len(prompt.ids) - 1,), {"self_attention": (len(prompt.ids) - 1,)})
    else:
        assert keys("object:question") == ("cross_attention", tuple(1 + inside))
        assert keys("background:all") == ("cross_attention", (0, *(1 + outside)))
        assert keys("image:options") == ("cross_attention", tuple(range(65)))
        assert Places(vlm, prompt, pair).block("all:all").keys.keys() == {"self_attention", "cross_attention"}
    assert keys("options:?") == ("self_attention", tuple(sorted(options)))
    assert Places(vlm, prompt, pair).block("noun:question").queries == tuple(question)


def _span(pair, word):
    start = pair.clean_question.lower().index(word.lower())
    return start, start + len(word)


def test_a_box_does_where_there_is_no_mask(vlm, make_pair):
    pair = make_pair(vlm, "sip")
    prompt = vlm.prompt(pair.clean_question)
    box = [9, 20, 30, 25]
    boxed = dataclasses.replace(pair, sample=dict(pair.sample) | {"object_mask": None, "object_box": box})
    filled = Image.fromarray(np.pad(np.full((5, 21), 255, np.uint8), ((20, 39), (9, 34))))
    masked = dataclasses.replace(pair, sample=dict(pair.sample) | {"object_mask": filled})
    assert Places(vlm, prompt, boxed).block("object:question") == Places(vlm, prompt, masked).block("object:question")
    assert sum(map(len, Places(vlm, prompt, boxed).block("object:question").keys.values())) == 3 * 2
    neither = dataclasses.replace(pair, sample=dict(pair.sample) | {"object_mask": None, "object_box": []})
    with pytest.raises(LeftOut, match="neither an object mask nor a box"):
        Places(vlm, prompt, neither).block("object:question")


def test_a_model_without_a_grid_of_patches_has_no_object(make_pair):
    vlm = wrap(*zoo.make("mllama"), "mllama")
    pair = make_pair(vlm, "sip")
    prompt = vlm.prompt(pair.clean_question)
    assert Places(vlm, prompt, pair).block("image:question").keys["cross_attention"] is None
    with pytest.raises(LeftOut, match="not one square grid"):
        Places(vlm, prompt, pair).block("object:question")


@pytest.fixture
def study(tmp_path, data, vlm):
    return prepare(Options(model=vlm.name, data=data, samples=1, out=tmp_path / "results", device="cpu"), vlm)


def values(path):
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def test_the_file_holds_what_hooks_measure(study):
    """By labels; windows are centred as in ROME."""
    vlm = study.vlm
    path = knock_out_attention(study, AttentionKnockout(window=2))
    assert path == study.folder / "attention_knockout-window2.nc"
    dataset = values(path)
    assert tuple(dataset.edge.values) == (DECODER_EDGES if vlm.architecture.causal else ENCODER_EDGES) == default_edges(vlm)
    pair = study.pairs("sip")[0][1].pair
    _, by_hooks = shipped(vlm, pair)
    row = dataset.sel(sample=pair.sample["sample_id"])
    clean = by_hooks(Block((), (), {}))
    assert float(row.clean_logit_correct) == pytest.approx(float(clean[0]), abs=1e-5)
    for edge in dataset.edge.values[::2]:
        block = Places(vlm, vlm.prompt(pair.clean_question), pair).block(edge)
        blocked = by_hooks(dataclasses.replace(block, layers=(1, 2)))
        cell = row.sel(edge=edge, layer=2)
        found = [float(cell[name]) for name in ("logit_correct", "logit_incorrect", "log_normalizer")]
        np.testing.assert_allclose(found, blocked, atol=1e-5)
        p_clean, p_blocked = (float((run[0] - run[2]).exp()) for run in (clean, blocked))
        assert float(dataset.effects.relative_change().sel(sample=pair.sample["sample_id"], edge=edge, layer=2)) == pytest.approx(
            p_blocked / p_clean - 1, abs=1e-5
        )
        assert cell.queries == len(block.queries)
        assert cell["keys"] == sum(map(len, block.keys.values()))
    assert float(dataset.effects.logit_difference().sel(edge=dataset.edge.values[0]).min()) < 0


def test_a_sample_without_a_mask_is_nan_there_and_the_manifest_says_why(tmp_path, blip, shapes):
    rows = [dict(shapes[0]) | {"object_mask": None, "object_box": []}, dict(shapes[1])]
    sample_table.save(sample_table.build(rows), tmp_path / "data", {"name": "shapes", "seed": 0, "left_out": []})
    options = Options(model=blip.name, data=str(tmp_path / "data"), samples=2, out=tmp_path / "results", device="cpu", keep_wrong=True)
    study = prepare(options, blip)
    path = knock_out_attention(study, AttentionKnockout(("object:question",)))
    missing = values(path).logit_correct.isnull().all("layer").sel(edge="object:question")
    assert dict(zip(missing.sample.values, missing.values, strict=True)) == {rows[0]["sample_id"]: True, rows[1]["sample_id"]: False}
    assert not values(path).clean_logit_correct.isnull().any()
    (entry,) = json.loads((tmp_path / "results/manifest.json").read_text())["runs"].values()
    assert entry["left_out"] == [
        {"sample": rows[0]["sample_id"], "reason": "object:question is not blocked: the sample has neither an object mask nor a box"}
    ]


def test_edges_that_no_sample_has_are_refused_when_asked_for_and_else_left_out(tmp_path, blip, shapes, caplog):
    rows = [dict(shapes[0]) | {"object_mask": None, "object_box": []}]
    sample_table.save(sample_table.build(rows), tmp_path / "data", {"name": "shapes", "seed": 0, "left_out": []})
    options = Options(model=blip.name, data=str(tmp_path / "data"), samples=1, out=tmp_path / "results", device="cpu", keep_wrong=True)
    study = prepare(options, blip)
    with pytest.raises(
        ValueError, match=r"no sample of 'shapes' has the edge object:question in blip-shapes: .* neither an object mask nor a box"
    ):
        knock_out_attention(study, AttentionKnockout(("object:question",)))
    with pytest.raises(ValueError, match=r"image:last .*nothing is 'last'; the prompt has \[CLS\], question"):
        knock_out_attention(study, AttentionKnockout(("image:last",)))
    dataset = values(knock_out_attention(study))
    assert "has the edge background:question" in caplog.text
    assert {edge for edge in ENCODER_EDGES if bool(dataset.logit_correct.sel(edge=edge).isnull().all())} == {
        "object:question",
        "background:question",
        "object:options",
    }


def test_the_script_prints_the_mean_change_by_edge_and_layer(tmp_path, data, monkeypatch, capsys):
    arguments = ["--model", "blip-shapes", "--data", data, "--samples", "1", "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["attention_knockout", *arguments, "--edges", "image:all", "image:question"])
    knockout_script.main()
    lines = capsys.readouterr().out.splitlines()
    dataset = values(lines[-1])
    clean, blocked = (np.exp(dataset[f"{run}logit_correct"] - dataset[f"{run}log_normalizer"]) for run in ("clean_", ""))
    change = ((blocked - clean) / clean).mean("sample")
    for edge in ("image:all", "image:question"):
        (row,) = (line.split() for line in lines if line.startswith(edge))
        assert row[1:] == [f"{value:.3f}" for value in change.sel(edge=edge).values]


def test_a_metric_that_the_file_has_no_numbers_for_says_so(study):
    dataset = values(knock_out_attention(study, AttentionKnockout(("image:?",), window=1)))
    with pytest.raises(
        effects.SchemaError, match=r"needs the variable 'corrupt_logit_correct', which the file \(The clean run with .*\) lacks"
    ):
        dataset.effects.normalized_effect()
    with pytest.raises(effects.SchemaError, match="needs the variable 'kl_from_clean'"):
        dataset.effects.divergence()


def test_wrong_edges_and_windows_are_refused(study):
    for edges, window, message in (
        (("question",), 1, "'question' is no edge source:target: '' is none of image, object"),
        (("imag:question",), 1, "'imag' is none of"),
        (("image:question", "image:question"), 1, "named twice"),
        (("image:question",), study.vlm.n_layers + 1, f"does not fit; {study.vlm.name} has {study.vlm.n_layers}"),
    ):
        with pytest.raises(ValueError, match=message):
            knock_out_attention(study, AttentionKnockout(edges, window))
    if study.vlm.architecture.causal:
        with pytest.raises(ValueError, match="'question' stands before 'last' and does not see it anyway"):
            knock_out_attention(study, AttentionKnockout(("last:question",)))


def test_a_finished_file_is_left_alone_and_other_edges_are_refused(study):
    edges = ("options:?", "image:?")
    path = knock_out_attention(study, AttentionKnockout(edges))
    before = path.stat().st_mtime_ns
    assert knock_out_attention(study, AttentionKnockout(edges)) == path
    assert path.stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="edges"):
        knock_out_attention(study, AttentionKnockout(edges[:1]))


def test_the_divergence_from_the_clean_run_is_measured_where_asked_for(study):
    """KL over the vocabulary, by hooks; 0 for the clean run itself."""
    study.options.divergence = True
    dataset = values(knock_out_attention(study, AttentionKnockout(("all:all",), window=1)))
    pair = study.pairs("sip")[0][0].pair
    block = Places(study.vlm, study.vlm.prompt(pair.clean_question), pair).block("all:all")
    kept = []
    for layers in ((), (0,)):
        _, by_hooks = shipped(study.vlm, pair, kept.append)
        by_hooks(dataclasses.replace(block, layers=layers))
    clean, blocked = (logits.double().log_softmax(-1) for logits in kept)
    expected = float((clean.exp() * (clean - blocked)).sum())
    found = dataset.effects.divergence().sel(sample=pair.sample["sample_id"], edge="all:all", layer=0)
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert expected > 1e-4
    assert float(abs(dataset.clean_kl_from_clean).max()) < 1e-6


def test_other_parts_of_a_model_are_refused(study):
    study.options.part = "vision"
    with pytest.raises(ValueError, match="not in --part vision"):
        knock_out_attention(study)


def decoder_pair(blip, pair):
    """A pair whose clean run is blocked in the answer decoder: as an example of that part, and by hooks."""
    part = part_of(blip, "decoder")
    answers = [pair.sample[name] for name in ("correct_answer", "incorrect_answer")]
    ours = example(part, prepare_pair(part, pair, part.scored(pair.clean_question, *answers)), base="clean")
    ids = blip.ids([blip.prompt(pair.clean_question)])
    layers = blip.module.text_decoder.bert.encoder.layer

    def by_hooks(block):
        pixels = ours.pixels["pixel_values"][BASE]
        return oracle(blip, layers, lambda: answer_logits(blip.module, ids, pixels, ours.forced)[0], block, ours.answers)

    return part, ours, by_hooks


def test_the_answer_decoder_is_blocked_from_the_encoded_question(blip, make_pair):
    """Some of its tokens, all of them, and the start token's attention to itself; together in one trace, where some have no numbers."""
    pair = make_pair(blip, "sip", 1)
    part, ours, by_hooks = decoder_pair(blip, pair)
    tokens = len(blip.prompt(pair.clean_question).ids)
    sides = [{"cross_attention": keys} for keys in ((3, 4), (0,), (tokens - 1,), tuple(range(tokens)), None)]
    sides += [{"self_attention": (0,)}, {"self_attention": (0,), "cross_attention": None}, {}]
    windows = [(0,), (1, 2), tuple(range(part.n_layers))]
    blocks = [Block(layers, (0,), keys) for keys in sides for layers in windows]
    captured = capture(part, [ours], ())
    measured = sweep_blocks(part, captured, blocks)
    torch.testing.assert_close(sweep_blocks(part, captured, blocks, tokens=3), measured, atol=TOLERANCE, rtol=0)
    for block, row in zip(blocks, measured, strict=True):
        expected = by_hooks(block)
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(run_plain(part, ours, block), expected, atol=TOLERANCE, rtol=0)
    assert ((measured - captured.measured[0, BASE]).abs().amax(1) > 1e-3).sum() > 8
    some = [i for i, block in enumerate(blocks) if block.keys in (sides[0], sides[4])]  # keys after the last named one: of one side all
    torch.testing.assert_close(sweep_blocks(part, captured, [blocks[i] for i in some]), measured[some], atol=TOLERANCE, rtol=0)
    whole, unnumbered = (measured[[i for i, block in enumerate(blocks) if block.keys == keys]] for keys in (sides[3], sides[4]))
    torch.testing.assert_close(whole, unnumbered, atol=TOLERANCE, rtol=0)


def test_a_decoder_that_reads_nothing_answers_alike_whatever_is_asked(blip, make_pair):
    found = []
    for number in (0, 5):
        part, ours, _ = decoder_pair(blip, make_pair(blip, "sip", number))
        ours = dataclasses.replace(ours, answers=(5, 6))
        captured = capture(part, [ours], ())
        block = Block(tuple(range(part.n_layers)), (0,), {"cross_attention": None})
        found.append((captured.measured[0, BASE], sweep_blocks(part, captured, [block])[0]))
    assert (found[0][0] - found[1][0]).abs().max() > 0.1
    torch.testing.assert_close(found[0][1], found[1][1], atol=TOLERANCE, rtol=0)


def test_edges_into_the_answer_decoder_are_of_the_questions_roles(tmp_path, data, blip, make_pair):
    options = Options(model=blip.name, data=data, samples=1, out=tmp_path, device="cpu", part="decoder")
    study = prepare(options, blip)
    path = knock_out_attention(study)
    assert path == tmp_path / "blip-shapes-decoder" / "shapes" / "attention_knockout.nc"
    dataset = values(path)
    assert tuple(dataset.edge.values) == ANSWER_EDGES == default_edges(study.vlm)
    pair = study.pairs("sip")[0][2].pair
    prompt = blip.prompt(pair.clean_question)
    _, _, by_hooks = decoder_pair(blip, pair)
    options_at = tuple(i for answer in ("correct_answer", "incorrect_answer") for i in prompt.positions(_span(pair, pair.sample[answer])))
    question = tuple(i for i in range(len(prompt.ids)) if prompt.spans[i])
    places = Places(study.vlm, study.vlm.prompt(pair.clean_question), pair)
    assert places.block("all:start").keys == {"self_attention": (0,), "cross_attention": None}
    assert places.block("start:start").keys == {"self_attention": (0,)}
    for edge, keys in (("options:start", options_at), ("question:start", question), ("[CLS]:start", (0,))):
        assert set(places.block(edge).keys["cross_attention"]) == set(keys)
        cell = dataset.sel(sample=pair.sample["sample_id"], edge=edge, layer=2)
        found = [float(cell[name]) for name in ("logit_correct", "logit_incorrect", "log_normalizer")]
        np.testing.assert_allclose(found, by_hooks(Block((2,), (0,), {"cross_attention": keys})), atol=1e-5)
    study.options.out = tmp_path / "others"
    with pytest.raises(ValueError, match="a window of 9 layers does not fit; blip-shapes-decoder has"):
        knock_out_attention(study, AttentionKnockout(window=9))
    with pytest.raises(ValueError, match=r"image:start .*nothing is 'image'; the prompt has start, \[CLS\], question"):
        knock_out_attention(study, AttentionKnockout(("image:start",)))
    with pytest.raises(ValueError, match=r"question:last .*nothing is 'last'; the prompt has start"):
        knock_out_attention(study, AttentionKnockout(("question:last",)))


def test_a_decoder_that_is_given_the_beginning_of_the_answer_is_blocked_there_too(blip, make_pair):
    """All that the decoder is given counts as its start."""
    pair = make_pair(blip, "sip", 1)
    part, ours, _ = decoder_pair(blip, pair)
    ours = dataclasses.replace(ours, forced=(7, 8))
    ids = blip.ids([blip.prompt(pair.clean_question)])

    def run():
        return answer_logits(blip.module, ids, ours.pixels["pixel_values"][BASE], ours.forced)[0]

    for keys in ((2, 3), None):
        layers = blip.module.text_decoder.bert.encoder.layer
        block = Block((1,), (0,), {"cross_attention": keys})
        expected = oracle(blip, layers, run, dataclasses.replace(block, queries=(0, 1, 2)), ours.answers)
        torch.testing.assert_close(sweep_blocks(part, capture(part, [ours], ()), [block])[0], expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(run_plain(part, ours, block), expected, atol=TOLERANCE, rtol=0)
