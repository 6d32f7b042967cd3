"""Path patching against raw PyTorch hooks, where theory says what it must be, and the file that it writes."""

import sys
from dataclasses import replace
from itertools import product
from operator import attrgetter

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

from benchmarks.models import llava as random_llava
from corruptions.options import CorruptionOptions
from data_prep.scenes.small_models import blip_shapes
from data_prep.tables import schema as sample_table
from interventions import path_patching
from interventions.backends.opening import prepare
from interventions.engine import paths as path_runs
from interventions.engine.capture import BASE, Example, capture, example
from interventions.engine.oracle.paths import run_plain, verify_paths
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.pairs import prepare_pair
from interventions.engine.path_names import Ends, Head, PathError, Receiver, check_component, default_receivers, parse_receiver
from interventions.engine.paths import Paths, run_paths
from interventions.engine.plan import Patch, all_heads
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.methods import path_patching as method
from interventions.methods.options import HeadPatching, PathPatching
from interventions.models.loading import wrap
from interventions.models.parts import part_of
from interventions.models.vlm import Scored
from interventions.path_patching import patch_paths
from interventions.results.store import StoreError
from interventions.study.options import Options
from tests.interventions.models.test_architectures import LAYERS, QUESTIONS, pictures
from tests.support import zoo
from tests.support.hooks import answer_logits, layers_and_modules
from tests.support.planted import HEAD, LAYER, planted_blip

TOLERANCE = 1e-5
PROJECTIONS = {
    "blip": {"self_attention": "attention.self.{}", "cross_attention": "crossattention.self.{}"},
    "llava": {"self_attention": "self_attn.{}_proj"},
}


def example_of(vlm, pair):
    return example(
        vlm, prepare_pair(vlm, pair, vlm.scored(pair.clean_question, pair.sample["correct_answer"], pair.sample["incorrect_answer"]))
    )


def numbers(logits, answers):
    return torch.stack([*logits[list(answers)], logits.logsumexp(-1)])


def receivers_of(vlm, component, *texts):
    return tuple(parse_receiver(text, vlm, component) for text in texts)


def columns_of(vlm, head):
    return slice(head.number * vlm.head_dim, (head.number + 1) * vlm.head_dim)


# ---------------------------------------------------------------------- by hooks


class Hooks:
    """Values of modules kept or put in while a model runs, with PyTorch's hooks alone."""

    def __init__(self):
        self.kept, self._handles = {}, []

    @staticmethod
    def _value(side, inputs, output):
        return inputs[0] if side == "input" else output[0] if side == "tuple" else output

    def keep(self, name, module, side):
        def hook(_, inputs, output):
            self.kept[name] = self._value(side, inputs, output).clone()

        self._handles.append(module.register_forward_hook(hook))

    def put(self, module, side, change):
        """`change` gets the module's value and gives another."""
        if side == "input":
            self._handles.append(module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:])))
        elif side == "tuple":
            self._handles.append(module.register_forward_hook(lambda _, inputs, output: (change(output[0]), *output[1:])))
        else:
            self._handles.append(module.register_forward_hook(lambda _, inputs, output: change(output)))

    @torch.no_grad()
    def run(self, forward):
        try:
            return forward()
        finally:
            for handle in self._handles:
                handle.remove()


def hooked_path(vlm, run, layers, sites, projections, paths, sender, receiver):
    """Logits of `run(1)` with one path patched from `run(0)`: three or four passes, all by hooks.

    sites : by component, how to find the module in a layer, and which of its values is meant
    projections : by component, the path of its projections with {} for their name
    """
    attentions = [name for name in sites if name in projections]
    held = [*attentions, *(["mlp"] if paths.freeze_mlps else [])]
    pick, side = sites[paths.ends.sending]
    source = Hooks()
    source.keep("z", pick(layers[sender.layer]), side)
    source.run(lambda: run(0))

    base = Hooks()
    for number, component in product(range(len(layers)), held):
        module, side = sites[component][0](layers[number]), sites[component][1]
        base.keep((number, component), module, side)
    base.run(lambda: run(1))

    first = Hooks()

    def sent(state):
        state = state.clone()
        for position in paths.positions:
            state[0, position, columns_of(vlm, sender)] = source.kept["z"][0, position, columns_of(vlm, sender)]
        return state

    for number, component in product(range(len(layers)), held):
        module, side = sites[component][0](layers[number]), sites[component][1]
        state = base.kept[number, component]
        state = sent(state) if (number, component) == (sender.layer, paths.ends.sending) else state
        first.put(module, side, lambda _, state=state: state)
    if receiver.head:
        names = [name for name in projection_names(projections, paths.ends.receiving) if receiver.input in ("", name[0])]
        modules = {n: attrgetter(projections[paths.ends.receiving].format(n))(layers[receiver.head.layer]) for n in names}
        for name, module in modules.items():
            first.keep(name, module, "output")
    logits = first.run(lambda: run(1))
    if receiver.head is None:
        return logits

    second = Hooks()
    pick, side = sites[paths.ends.receiving]
    for name, module in modules.items():
        size = module.weight.shape[0] if hasattr(module, "weight") else module.out_features
        shared = vlm.n_heads * vlm.head_dim // size  # heads that read the same key or value
        group = slice(receiver.head.number // shared * vlm.head_dim, (receiver.head.number // shared + 1) * vlm.head_dim)
        second.put(module, "output", lambda state, name=name, group=group: with_columns(state, first.kept[name], group))
        if shared > 1:
            own, z = columns_of(vlm, receiver.head), base.kept[receiver.head.layer, paths.ends.receiving]
            second.put(pick(layers[receiver.head.layer]), side, lambda state, own=own, z=z: with_columns(z, state, own))
    return second.run(lambda: run(1))


def with_columns(state, other, columns):
    state = state.clone()
    state[..., columns] = other[..., columns]
    return state


def projection_names(projections, component):
    if component == "cross_attention":
        return ["query"]
    return ["query", "key", "value"] if "attention.self" in projections[component] else ["q", "k", "v"]


def shipped_hooks(vlm, ours):
    module = vlm.module
    layers, sites = layers_and_modules(module)
    pixels = ours.pixels["pixel_values"]

    def by_hooks(paths, sender, receiver):
        def run(row):
            return answer_logits(module, ours.ids[row : row + 1], pixels[row], ours.forced)[0]

        logits = hooked_path(vlm, run, layers, sites, PROJECTIONS[vlm.architecture.name], paths, sender, receiver)
        return numbers(logits, ours.answers)

    return by_hooks


@pytest.mark.parametrize(("corruption", "freeze_mlps"), [("sip", False), ("sip", True), ("str", False)])
def test_paths_agree_with_raw_hooks_and_with_the_plain_path(vlm, make_pair, corruption, freeze_mlps):
    """Between all attention components; to heads' inputs, to whole heads and to the answer; from all tokens and from some."""
    ours = example_of(vlm, make_pair(vlm, corruption, 1))
    by_hooks, tokens = shipped_hooks(vlm, ours), ours.ids.shape[1]
    for component, receiving in product(vlm.architecture.attention, repeat=2):
        texts = ["L1.H2", "L3.H3", "L2.H1.q", "answer", *(["L2.H1.k", "L3.H0.v"] if receiving == "self_attention" else [])]
        paths = Paths(
            Ends(component, receiving),
            (Head(0, 1), Head(1, 2), Head(1, 0)),
            receivers_of(vlm, receiving, *texts),
            tuple(range(tokens)) if corruption == "sip" else (tokens - 1, tokens - 4),
            freeze_mlps,
        )
        captured = capture(vlm, [ours], paths.components)
        measured = run_paths(vlm, captured, paths)
        moved = (measured - captured.measured[0, BASE]).abs().amax(-1) > 1e-4
        assert moved.any()
        every = list(product(enumerate(paths.senders), enumerate(paths.receivers)))
        for (row, sender), (column, receiver) in every[:: 1 if (corruption, freeze_mlps) == ("sip", False) else 3]:
            oracle = by_hooks(paths, sender, receiver)
            torch.testing.assert_close(measured[row, column], oracle, atol=TOLERANCE, rtol=0)
            if (row + column) % 3 == 0:
                one = replace(paths, senders=(sender,), receivers=(receiver,))
                torch.testing.assert_close(run_plain(vlm, ours, one), oracle, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llava_next_mistral", "qwen3_vl", "gemma3", "blip_2"])
def test_heads_that_share_keys_and_values_receive_one_by_one(name):
    """Two or four heads read one key and one value: only the receiver reads what has changed. Among them norms of queries and keys after
    their projections, and image tokens that read each other."""
    module, processor = zoo.make(name)
    vlm = wrap(module, processor, name)
    prompt = vlm.prompt(QUESTIONS[0])
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels(pictures(2)), (5, 6))
    inputs = [vlm.processed(vlm.template(QUESTIONS[0])[0], image) for image in pictures(2)]
    layers, output = attrgetter(LAYERS[name])(module), "out_proj" if name == "blip_2" else "o_proj"
    sites = {"self_attention": (lambda layer: getattr(layer.self_attn, output), "input"), "mlp": (lambda layer: layer.mlp, "output")}
    receivers = receivers_of(vlm, "self_attention", "L1.H1.q", "L1.H1.k", "L1.H1.v", "L2.H3", "answer")
    paths = Paths(Ends("self_attention", "self_attention"), (Head(0, 1), Head(1, 2)), receivers, tuple(range(len(prompt.ids))))
    captured = capture(vlm, [ours], paths.components)
    measured = run_paths(vlm, captured, paths)
    for (row, sender), (column, receiver) in product(enumerate(paths.senders), enumerate(receivers)):
        logits = hooked_path(
            vlm, lambda run: module(**inputs[run]).logits[0, -1], layers, sites, PROJECTIONS["llava"], paths, sender, receiver
        )
        torch.testing.assert_close(measured[row, column], numbers(logits, ours.answers), atol=5e-5, rtol=0)
    assert ((measured[0] - captured.measured[0, BASE]).abs().amax(-1) > 1e-4).all()
    verify_paths(vlm, ours, paths, measured, count=2)


@pytest.mark.parametrize("name", ["mllama", "paligemma2"])
def test_models_of_other_kinds_agree_with_the_plain_path(name):
    """Layers of self-attention and of cross-attention; prompts that read themselves."""
    vlm = wrap(*zoo.make(name), name)
    prompt = vlm.prompt(QUESTIONS[0])
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels(pictures(2)), (5, 6))
    ends = Ends(vlm.architecture.head_component, "self_attention")
    sender = Head(min(layer for layer, _ in all_heads(vlm, ends.sending)), 2)
    receivers = receivers_of(vlm, "self_attention", "L2.H3.k", "L2.H1", "answer")
    paths = Paths(ends, (sender,), receivers, tuple(range(len(prompt.ids))), freeze_mlps=True)
    measured = run_paths(vlm, capture(vlm, [ours], paths.components), paths)
    for column, receiver in enumerate(receivers):
        plain = run_plain(vlm, ours, replace(paths, receivers=(receiver,)))
        torch.testing.assert_close(measured[0, column], plain, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["decoder", "vision"])
def test_parts_of_blip_agree_with_the_plain_path(blip, make_pair, name):
    part = part_of(blip, name)
    ours = example(part, prepare_pair(part, make_pair(blip, "sip"), Scored(5, 6)))
    component = part.architecture.head_component if name == "decoder" else "self_attention"
    texts = ("L2.H1", "L3.H0.q" if name == "decoder" else "L3.H0.qkv", "answer")
    paths = Paths(Ends(component, component), (Head(0, 1), Head(1, 2)), receivers_of(part, component, *texts), (0,))
    captured = capture(part, [ours], paths.components)
    measured = run_paths(part, captured, paths)
    for (row, sender), (column, receiver) in product(enumerate(paths.senders), enumerate(paths.receivers)):
        plain = run_plain(part, ours, replace(paths, senders=(sender,), receivers=(receiver,)))
        torch.testing.assert_close(measured[row, column], plain, atol=2e-5, rtol=0)
    assert (measured[:, -1] - captured.measured[0, BASE]).abs().max() > 1e-4


# ---------------------------------------------------------------------- what theory says


def test_equal_runs_and_receivers_before_the_sender_have_no_effect_at_all(vlm, make_pair):
    """Exactly none; also of an earlier attention of the sender's own layer, and of other heads of the same attention."""
    ours = example_of(vlm, make_pair(vlm, "sip"))
    same = replace(ours, ids=ours.ids[[1, 1]], pixels={name: values[[1, 1]] for name, values in ours.pixels.items()})
    every = tuple(range(ours.ids.shape[1]))
    for component, receiving in product(vlm.architecture.attention, repeat=2):
        before = receivers_of(vlm, receiving, "L0.H1", "L1.H3", *(["L2.H1"] if receiving in ("self_attention", component) else []))
        paths = Paths(Ends(component, receiving), (Head(2, 0), Head(2, 1)), before, every)
        captured = capture(vlm, [ours], paths.components)
        assert torch.equal(run_paths(vlm, captured, paths), captured.measured[0, BASE].expand(2, len(before), -1))
        after = replace(paths, receivers=receivers_of(vlm, receiving, "L3.H1", "answer"))
        assert not torch.equal(run_paths(vlm, captured, after), captured.measured[0, BASE].expand(2, 2, -1))
        captured = capture(vlm, [same], paths.components)
        assert torch.equal(run_paths(vlm, captured, after), captured.measured[0, BASE].expand(2, 2, -1))


def total_of(vlm, captured, paths):
    (measured,) = sweep(vlm, captured, [[Patch(paths.ends.sending, (s.layer,), s.number, paths.positions) for s in paths.senders]])
    return measured


def test_from_the_last_layer_to_the_answer_it_is_ordinary_patching(vlm, make_pair):
    """Nothing is left to be held as it was."""
    ours = example_of(vlm, make_pair(vlm, "sip"))
    component, last = vlm.architecture.head_component, vlm.n_layers - 1
    senders = tuple(Head(last, number) for number in range(vlm.n_heads))
    paths = Paths(Ends(component, component), senders, (Receiver(None),), tuple(range(ours.ids.shape[1])))
    captured = capture(vlm, [ours], paths.components)
    torch.testing.assert_close(run_paths(vlm, captured, paths)[:, 0], total_of(vlm, captured, paths), atol=TOLERANCE, rtol=0)


def test_a_decoders_answer_by_arithmetic(llava, make_pair):
    """All frozen, the stream at the last token changes by W_O times the change of z; the final norm is computed anew."""
    ours = example_of(llava, make_pair(llava, "sip"))
    senders, last = (Head(1, 3), Head(3, 4)), ours.ids.shape[1] - 1
    paths = Paths(Ends("self_attention", "self_attention"), senders, (Receiver(None),), (last,), freeze_mlps=True)
    captured = capture(llava, [ours], ("self_attention",))
    measured = run_paths(llava, captured, paths)
    text, stream = llava.module.model.language_model, captured.leaving[-1][0, -1]
    for row, sender in enumerate(senders):
        columns = columns_of(llava, sender)
        clean, corrupt = captured.states["self_attention"][0, :, sender.layer, last, columns]
        change = text.layers[sender.layer].self_attn.o_proj.weight[:, columns] @ (clean - corrupt)
        with torch.no_grad():
            logits = llava.module.lm_head(text.norm(stream + change))
        torch.testing.assert_close(measured[row, 0], numbers(logits, ours.answers), atol=TOLERANCE, rtol=0)
        assert change.abs().max() > 0.01


def without_norms(module):
    for child in module.modules():
        for name in dict(child.named_children()):
            if "norm" in name.lower():
                setattr(child, name, nn.Identity())


def linear_llava():
    """No norms, uniform attention, MLPs that are linear maps."""
    made = random_llava(
        layers=4, heads=4, width=64, feed_forward=96, vision_layers=1, vision_width=64, key_value_heads=2, image_size=56, vocabulary=120
    )
    text = made.module.model.language_model
    without_norms(text)
    for layer in text.layers:
        layer.self_attn.q_proj.weight.zero_()
        layer.mlp = nn.Linear(64, 64).requires_grad_(False)
    for weights in text.parameters():
        if weights.ndim > 1 and weights.any():
            weights.normal_(0, 3 / weights.shape[1] ** 0.5)
    return wrap(made.module, made.processor, "linear"), Ends("self_attention", "self_attention")


def linear_blip(folder):
    """No norms, uniform attention, and no MLPs, in the question encoder and in the answer decoder."""
    module, processor = blip_shapes(folder, layers=4, heads=6, std=0.15)
    for part in (module.text_encoder, module.text_decoder):
        without_norms(part)
        for name, weights in part.named_parameters():
            if ".query." in name or name.endswith(("bias", "layer.0.output.dense.weight")):
                weights.data.zero_()
        for layer in (part.bert if hasattr(part, "bert") else part).encoder.layer:
            layer.output.dense.weight.data.zero_()
    module.text_decoder.cls.predictions.transform = nn.Identity()
    return wrap(module.eval().requires_grad_(False), processor, "linear"), Ends("cross_attention", "self_attention")


@pytest.mark.parametrize("name", ["blip", "llava"])
def test_in_a_linear_model_direct_paths_sum_to_the_total_effect(tmp_path, make_pair, name):
    """Every path has one head that is its first, or none: with heads frozen, effects of first steps add up."""
    torch.manual_seed(0)
    vlm, ends = linear_blip(tmp_path) if name == "blip" else linear_llava()
    ours = example(vlm, prepare_pair(vlm, make_pair(vlm, "sip"), Scored(5, 6)))
    receivers = (*(Receiver(Head(*head)) for head in all_heads(vlm, ends.receiving)), Receiver(None))
    paths = Paths(ends, (Head(0, 1), Head(1, 3)), receivers, tuple(range(ours.ids.shape[1])))
    captured = capture(vlm, [ours], paths.components)
    base = captured.measured[0, BASE, :2]
    effects = (run_paths(vlm, captured, paths)[..., :2] - base).double()
    total = (total_of(vlm, captured, paths)[..., :2] - base).double()
    assert (total.abs() > 0.02).any()
    assert ((effects.abs() > 0.05 * total.abs().max()).sum(1) >= 2).any()  # the answer does not get it all at once
    torch.testing.assert_close(effects.sum(1), total, atol=1e-4 * float(captured.measured.abs().max()), rtol=0)


def test_a_planted_head_reaches_the_answer_by_its_direct_path_alone(tmp_path):
    """All that the model knows of the image passes through one head, and no other head writes anything."""
    vlm = planted_blip(tmp_path)
    prompt = vlm.prompt("Is this red or blue?")
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    words = vlm.processor.tokenizer.convert_tokens_to_ids(["red", "blue"])
    ours = Example(vlm.ids([prompt, prompt]), vlm.pixels(images), tuple(words))
    receivers = (*(Receiver(Head(3, number)) for number in range(vlm.n_heads)), Receiver(None))
    for receiving in vlm.architecture.attention:
        senders = (Head(LAYER, HEAD), Head(LAYER, HEAD - 1), Head(1, HEAD))
        paths = Paths(Ends("cross_attention", receiving), senders, receivers, tuple(range(len(prompt.ids))))
        captured = capture(vlm, [ours], paths.components)
        clean, corrupt = (float(run[0] - run[1]) for run in captured.measured[0])
        effects = run_paths(vlm, captured, paths)[..., :2].diff(dim=-1).squeeze(-1).neg() - corrupt
        assert clean - corrupt > 1
        assert float(effects[0, -1]) == pytest.approx(clean - corrupt, abs=1e-4)
        effects[0, -1] = 0
        assert effects.abs().max() < 1e-5


# ---------------------------------------------------------------------- in parts


def test_traces_of_fewer_runs_give_the_same_numbers_and_wrong_ones_are_found_out(vlm, make_pair, monkeypatch):
    ours = example_of(vlm, make_pair(vlm, "sip", 2))
    component = vlm.architecture.head_component
    receivers = receivers_of(vlm, component, "L2.H0", "L3.H2.q", "answer")
    paths = Paths(Ends(component, component), (Head(0, 0), Head(1, 1), Head(2, 3)), receivers, tuple(range(ours.ids.shape[1])))
    captured = capture(vlm, [ours], paths.components)
    whole, made = run_paths(vlm, captured, paths), []
    real = path_runs.whole_runs
    monkeypatch.setattr(path_runs, "runs_in_a_trace", lambda *_: 4)
    monkeypatch.setattr(path_runs, "whole_runs", lambda *arguments: made.append(arguments[-1]) or real(*arguments))
    torch.testing.assert_close(run_paths(vlm, captured, paths), whole, atol=TOLERANCE, rtol=0)
    assert made == [3, 3, 3]  # the base run, and one sender twice
    monkeypatch.undo()
    real, sizes = path_runs._run_together, []

    def small_device(vlm, captured, paths):
        sizes.append(len(paths.senders))
        if len(paths.senders) > 1:
            raise torch.OutOfMemoryError("too much")
        return real(vlm, captured, paths)

    monkeypatch.setattr(path_runs, "_run_together", small_device)
    torch.testing.assert_close(run_paths(vlm, captured, paths), whole, atol=TOLERANCE, rtol=0)
    assert sizes == [3, 1, 2, 1, 1]
    verify_paths(vlm, ours, paths, whole)
    with pytest.raises(VerificationError, match=r"the path L\d.H\d -> .* of .*-shapes: among others the run measured"):
        verify_paths(vlm, ours, paths, whole + 0.01)


# ---------------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def data(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    sample_table.save(shapes, folder, {"name": "shapes", "seed": 1, "left_out": []})
    return str(folder)


@pytest.fixture
def study(tmp_path, data, vlm):
    return prepare(Options(model=vlm.name, data=data, samples=1, out=tmp_path / "results", device="cpu"), vlm)


CHOSEN = {"senders": ("L0.H1", "L1.H2"), "receivers": ("L1.H0", "L2.H1.q", "answer")}


def values(path):
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def test_the_file_names_every_path_and_its_total_is_that_of_head_patching(study):
    vlm, component = study.vlm, study.vlm.architecture.head_component
    token = vlm.architecture.main_token
    path = patch_paths(study, PathPatching(**CHOSEN, token=token))
    assert path == study.folder / "sip" / f"{component}-paths.nc"
    dataset = values(path)
    assert dataset.logit_correct.dims == ("sample", "sender", "receiver")
    assert list(dataset.sender.values) == ["L0.H1", "L1.H2"]
    assert list(dataset.receiver.values) == ["L1.H0", "L2.H1.q", "answer", "total"]
    assert list(dataset.receiver_layer.values) == [1, 2, -1, -1]
    assert list(dataset.receiver_input.values) == ["", "q", "", ""]
    assert (dataset.attrs["mlps"], dataset.attrs["token"], dataset.attrs["receiver_component"]) == ("recomputed", token, component)
    heads = values(patch_heads(study, HeadPatching(tokens=(token,)))).effects.logit_difference().sel(token=token)
    total = dataset.effects.logit_difference().sel(receiver="total")
    for sender in total.sender:
        expected = heads.sel(layer=int(sender.sender_layer), head=int(sender.sender_head))
        np.testing.assert_allclose(total.sel(sender=sender), expected, atol=TOLERANCE)
    pair = study.pairs("sip")[0][1]
    ours = example(vlm, pair)
    (cell,) = pair.cells((token,))
    paths = Paths(Ends(component, component), (Head(0, 1),), receivers_of(vlm, component, "L2.H1.q"), cell.positions)
    oracle = shipped_hooks(vlm, ours)(paths, paths.senders[0], paths.receivers[0])
    cell = dataset.sel(sample=pair.sample["sample_id"], sender="L0.H1", receiver="L2.H1.q")
    found = [float(cell[name]) for name in ("logit_correct", "logit_incorrect", "log_normalizer")]
    np.testing.assert_allclose(found, oracle, atol=TOLERANCE)


def test_an_interrupted_run_goes_on_and_other_paths_are_refused(study, monkeypatch, tmp_path):
    real, count = method.run_paths, iter(range(2))

    def interrupted(*arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(method, "run_paths", interrupted)
    with pytest.raises(KeyboardInterrupt):
        patch_paths(study, PathPatching(**CHOSEN))
    redone = []
    monkeypatch.setattr(method, "run_paths", lambda *arguments: redone.append(1) or real(*arguments))
    resumed = values(patch_paths(study, PathPatching(**CHOSEN)))
    assert len(redone) == len(study.pairs("sip")[0]) - 2
    patch_paths(study, PathPatching(**CHOSEN))
    assert len(redone) == len(study.pairs("sip")[0]) - 2
    for other in ({"mlps": "frozen"}, {"receivers": ("answer",)}, {"token": study.vlm.architecture.main_token}):
        with pytest.raises(StoreError, match=f"another configuration.*{next(iter(other))}"):
            patch_paths(study, PathPatching(**CHOSEN | other))
    study.options.out = tmp_path / "whole"
    xr.testing.assert_identical(resumed.drop_attrs(), values(patch_paths(study, PathPatching(**CHOSEN))).drop_attrs())


def test_noising_puts_corrupt_states_into_the_clean_run(tmp_path, data, vlm):
    options = Options(model=vlm.name, data=data, samples=1, out=tmp_path, device="cpu", direction="noising", divergence=True)
    study = prepare(options, vlm)
    path = patch_paths(study, PathPatching(**CHOSEN))
    dataset = values(path)
    assert path.parent.name == "sip-noising"
    assert float(dataset.effects.logit_difference_of("clean").min()) > 0
    pair = study.pairs("sip")[0][0]
    ours = example(vlm, pair, base="clean")
    component = vlm.architecture.head_component
    paths = Paths(Ends(component, component), (Head(1, 2),), (Receiver(None),), tuple(range(ours.ids.shape[1])))
    oracle = shipped_hooks(vlm, ours)(paths, paths.senders[0], paths.receivers[0])
    cell = dataset.sel(sample=pair.sample["sample_id"], sender="L1.H2", receiver="answer")
    np.testing.assert_allclose([float(cell.logit_correct), float(cell.log_normalizer)], oracle[[0, 2]], atol=TOLERANCE)
    assert (dataset.kl_from_clean.sel(receiver=["answer", "total"]) > -1e-6).all()
    assert float(dataset.kl_from_clean.sel(receiver="total").max()) > 1e-5


def test_each_draw_of_noise_is_kept(tmp_path, data, blip):
    noise = {"corruption": "gaussian_noise", "corruption_options": CorruptionOptions(noise_draws=2)}
    options = Options(model=blip.name, data=data, samples=1, out=tmp_path, device="cpu", **noise)
    dataset = values(patch_paths(prepare(options, blip), PathPatching(**CHOSEN, receiver_component="self_attention")))
    assert dataset.logit_correct.dims == ("sample", "draw", "sender", "receiver")
    assert dataset.effects.logit_difference().dims == ("sample", "sender", "receiver")
    assert abs(dataset.logit_correct.sel(receiver="answer").diff("draw")).min() > 0


def test_heads_are_chosen_by_their_ranking_where_none_are_named(study, tmp_path):
    vlm = study.vlm
    with pytest.raises(PathError, match=r"no ranking of heads at .*-heads.nc: make it with .*head_patching --component"):
        patch_paths(study)
    table = tmp_path / "ranked.csv"
    pd.DataFrame({"layer": [2, 1, 0, 3], "head": [3, 0, 1, 2]}).to_csv(table, index=False)
    dataset = values(patch_paths(study, PathPatching(ranking=table, top=2)))
    assert list(dataset.sender.values) == ["L2.H3", "L1.H0"]
    assert list(dataset.receiver.values) == ["L2.H3", "L3.H2", "answer", "total"]  # L1.H0 and L0.H1 are reached by neither
    assert float(abs(dataset.effects.logit_difference().sel(sender="L2.H3", receiver="L2.H3")).max()) == 0
    ends = Ends(vlm.architecture.head_component, vlm.architecture.head_component)
    chosen = default_receivers(vlm, ends, [Head(2, 3)], ((3, 5), (1, 0), (3, 2)), 5)
    assert list(map(str, chosen)) == ["L3.H2", "L3.H5", "answer"]


def test_names_that_are_none_are_refused(study):
    vlm, component = study.vlm, study.vlm.architecture.head_component
    layers = vlm.n_layers
    for wrong, message in (
        ({"senders": ("3.2",)}, r"'3.2' is no head: write L<layer>.H<head>, such as L3.H2"),
        ({"senders": (f"L{layers}.H0",)}, rf"{vlm.name} has no {component} head L{layers}.H0: it has heads 0 to 5 in the layers 0, 1"),
        ({"receivers": ("L1.H9.q",)}, rf"{vlm.name} has no {component} head L1.H9"),
        ({"receivers": ("Answer",)}, r"'Answer' is no receiver: write answer, L<layer>.H<head> or"),
        ({"receivers": ("L1.H1.x",)}, rf"L1.H1.x: {component} of {vlm.architecture.name} reads no x from .*; write L1.H1.q"),
        ({"receivers": ("answer", "answer")}, "answer is named twice"),
        ({"component": "mlp"}, "'mlp' of .* has no heads; choose from"),
        ({"receiver_component": "block"}, "'block' of .* has no heads"),
        ({"token": "verb"}, "no token has the role 'verb'"),
        ({"token": "every"}, "--token must be one role"),
        ({"top": 0}, "--top must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            patch_paths(study, PathPatching(**CHOSEN | wrong))
    if component == "cross_attention":
        with pytest.raises(PathError, match=r"L1.H1.k: cross_attention of blip reads no k from the layers before it; write L1.H1.q$"):
            patch_paths(study, PathPatching(**CHOSEN | {"receivers": ("L1.H1.k",)}))


def test_models_that_are_not_described_well_enough_are_refused(tmp_path, data):
    vlm = wrap(*zoo.make("blip_2"), "blip_2")
    with pytest.raises(ValueError, match="the self-attention of qformer is not described"):
        check_component(part_of(vlm, "qformer"), "cross_attention")
    options = Options(model="blip_2", data=data, samples=1, out=tmp_path, device="cpu", keep_wrong=True)
    study = prepare(options, vlm)
    with pytest.raises(ValueError, match="--mlps frozen needs the output of every MLP, which cannot be read in blip_2"):
        patch_paths(study, PathPatching(**CHOSEN, mlps="frozen"))
    vlm.architecture = replace(
        vlm.architecture, attention={"self_attention": replace(vlm.architecture.attention["self_attention"], inputs={})}
    )
    with pytest.raises(
        ValueError, match="the modules that make queries, keys and values in the self_attention of blip_2 are not described"
    ):
        patch_paths(study, PathPatching(**CHOSEN))


def test_the_script_prints_the_mean_effects_and_the_file(tmp_path, data, monkeypatch, capsys):
    arguments = ["--model", "blip-shapes", "--data", data, "--samples", "1", "--out", str(tmp_path / "results"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["path_patching", *arguments, "--senders", "L0.H1", "--receivers", "L2.H1.q", "answer"])
    path_patching.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["receiver", "L2.H1.q", "answer", "total"]
    assert lines[-1].endswith("cross_attention-paths.nc")
    monkeypatch.setattr(sys, "argv", ["path_patching", *arguments, "--senders", "L9.H1"])
    with pytest.raises(SystemExit, match=r"^interventions.path_patching: blip-shapes has no cross_attention head L9\.H1"):
        path_patching.main()


def test_the_script_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["path_patching", "--help"])
    with pytest.raises(SystemExit):
        path_patching.main()
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Example: python -m interventions.path_patching" in said
    assert "Heads whose z is put in, such as L3.H2 (layer 3, head 2)" in said
    assert "frozen: MLPs are held as they were" in said
