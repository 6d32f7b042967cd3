"""Parts of a model as targets: BLIP's answer decoder and vision tower, and Q-Formers, against raw PyTorch hooks."""

from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch
from PIL import Image

from interventions.backends.journal import name_of
from interventions.backends.opening import prepare
from interventions.backends.shipping import Request, ship
from interventions.engine.ablation import run_ablated
from interventions.engine.attention_maps import capture_attention
from interventions.engine.capture import Example, capture, example
from interventions.engine.gradients import attribution, of_cells
from interventions.engine.oracle.ablation import verify_ablations
from interventions.engine.oracle.patching import run_plain, verify_patches
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.head_patching import patch_heads
from interventions.methods.options import ModulePatching
from interventions.models.checks import check_sites
from interventions.models.loading import wrap
from interventions.models.parts import part_of
from interventions.models.vlm import Scored
from interventions.module_patching import patch_modules
from interventions.results import effects
from interventions.results.roles import Cell
from interventions.study.options import Options
from tests.support import zoo
from tests.support.hooks import answer_logits, patched

BLIP_SITES = {
    "decoder": (
        "text_decoder.bert.encoder.layer",
        {
            "self_attention": ("attention.self", "tuple"),
            "cross_attention": ("crossattention.self", "tuple"),
            "mlp": ("output.dense", "output"),
            "block": ("", "output"),
        },
    ),
    "vision": (
        "vision_model.encoder.layers",
        {"self_attention": ("self_attn.projection", "input"), "mlp": ("mlp", "output"), "block": ("", "output")},
    ),
}


@pytest.mark.parametrize("corruption", ["sip", "str"])
@pytest.mark.parametrize("name", ["decoder", "vision"])
def test_parts_of_blip_agree_with_raw_hooks(blip, make_pair, name, corruption):
    """Pairs whose questions differ in length share a trace."""
    part = part_of(blip, name)
    check_sites(part)
    pairs = [make_pair(blip, corruption, number) for number in (0, 4)]
    assert len({len(blip.prompt(pair.clean_question).ids) for pair in pairs}) == 2
    examples = [example(part, prepare_pair(part, pair, Scored(5, 6))) for pair in pairs]
    if name == "decoder":
        assert not part.batches_pairs
        pairs, examples = pairs[:1], examples[:1]
    captured = capture(part, examples, part.architecture.components)
    where, sites = BLIP_SITES[name]
    layers = attrgetter(where)(blip.module)
    positions = (0,) if name == "decoder" else (0, 3, 40)
    for component in part.architecture.components:
        path, side = sites[component]
        heads = part.n_heads if component in part.architecture.attention else None
        every = [patches(component, part.n_layers, heads, [Cell("", "", positions)])] * len(pairs)
        for pair, ours, rows in zip(pairs, examples, sweep(part, captured, every), strict=True):
            ids = blip.ids([blip.prompt(question) for question in (pair.clean_question, pair.corrupt_question)])
            pixels = ours.pixels["pixel_values"].flatten(0, 1)

            def run(row, ids=ids, pixels=pixels):
                return answer_logits(blip.module, ids[row : row + 1], pixels[row : row + 1])[0]

            for patch, row in list(zip(every[0], rows, strict=True))[:: 5 if heads else 1]:
                layer = layers[patch.layers[0]]
                columns = slice(None) if patch.head is None else slice(patch.head * part.head_dim, (patch.head + 1) * part.head_dim)
                logits = patched(run, {0: attrgetter(path)(layer) if path else layer}, side, patch.positions, columns)
                oracle = torch.stack([logits[5], logits[6], logits.logsumexp(-1)])
                torch.testing.assert_close(row, oracle, atol=2e-5, rtol=0)
                torch.testing.assert_close(run_plain(part, ours, patch), oracle, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["blip_2", "instructblip"])
def test_heads_of_a_qformer_agree_with_raw_hooks(name):
    module, processor = zoo.make(name)
    whole = wrap(module, processor, name)
    part = part_of(whole, "qformer")
    check_sites(part)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    question = "Is the small circle red or blue?"
    prompt = part.prompt(question)
    assert set(prompt.kinds) == {"query"}
    inputs = [processor(images=[image], text=[whole.template(question)[0]], return_tensors="pt") for image in images]
    ours = Example(part.ids([prompt, prompt]), part.pixels(images), (5, 6))
    captured = capture(part, [ours], ("cross_attention",))
    every = patches("cross_attention", part.n_layers, part.n_heads, [Cell("", "", (0, 2)), Cell("", "", tuple(range(6)))])
    (measured,) = sweep(part, captured, [every])
    verify_patches(part, ours, every, measured, count=len(every))  # also where a layer has no cross-attention
    with part.showing_attention():
        maps = capture_attention(part, ours.ids[:1], {name: values[:1] for name, values in ours.pixels.items()}, "cross_attention")
    there = ["cross_attention" in part.components_of(number) for number in range(part.n_layers)]
    assert not all(there)
    assert (~maps.isnan()).flatten(1).all(1).tolist() == there
    compared = 0
    for patch, row in zip(every, measured, strict=True):
        layer = module.qformer.encoder.layer[patch.layers[0]]
        if not hasattr(layer, "crossattention"):
            assert torch.equal(row, captured.measured[0, 1])
            continue
        columns = slice(patch.head * part.head_dim, (patch.head + 1) * part.head_dim)
        logits = patched(
            lambda run: module(**inputs[run]).logits[0, -1], {0: layer.crossattention.attention}, "tuple", patch.positions, columns
        )
        oracle = torch.stack([logits[5], logits[6], logits.logsumexp(-1)])
        torch.testing.assert_close(row, oracle, atol=5e-5, rtol=0)
        torch.testing.assert_close(run_plain(part, ours, patch), oracle, atol=5e-5, rtol=0)
        compared += not torch.equal(row, captured.measured[0, 1])
    assert compared > 5


def test_a_job_of_a_part_is_named_by_its_questions_and_carries_no_others(blip, make_pair):
    """Whatever was asked before: a job that is taken up again is of the same questions, and jobs do not grow with the data set."""
    pairs = [make_pair(blip, "sip", number) for number in (0, 4)]

    def job(part, pair):
        arguments = ([example(part, prepare_pair(part, pair, Scored(5, 6)))], ("mlp",))
        request = Request(compress=False)
        ship(part, capture, arguments, request)
        return name_of("a model", capture, arguments), len(request.content)

    one, other = part_of(blip, "decoder"), part_of(blip, "decoder")
    for number in range(200):
        other.prompt(f"Is number {number} red or blue?")
    first, second = ([job(part, pair) for pair in order] for part, order in ((one, pairs), (other, pairs[::-1])))
    assert [name for name, _ in first] == [name for name, _ in second[::-1]]
    assert first[0][0] != first[1][0]
    sizes = [size for _, size in (*first, *second)]
    assert max(sizes) - min(sizes) < 1000


@pytest.mark.parametrize(("part", "component"), [("decoder", "cross_attention"), ("vision", "self_attention")])
def test_a_study_of_a_part_has_a_folder_of_its_own(tmp_path, blip, data, part, component):
    study = prepare(Options(model="blip-shapes", data=data, samples=1, out=tmp_path, device="cpu", part=part), blip)
    path = patch_heads(study.under("sip"))
    assert path == tmp_path / f"blip-shapes-{part}" / "shapes" / "sip" / f"{component}-heads.nc"
    paths = patch_modules(study.under("str" if part == "decoder" else "sip"), ModulePatching(study.vlm.architecture.components))
    assert [path.stem for path in paths] == list(study.vlm.architecture.components)
    assert effects.read(paths[-1]).sizes["sample"] == 4


def test_an_unknown_part_is_named_with_those_there_are(llava, blip):
    with pytest.raises(ValueError, match=r"blip-shapes has no part 'qformer'.*there are: decoder, vision"):
        part_of(blip, "qformer")
    with pytest.raises(ValueError, match="there are: none"):
        part_of(llava, "decoder")


@pytest.mark.parametrize("name", ["decoder", "vision"])
def test_heads_of_a_part_are_ablated_and_attributed(blip, make_pair, name):
    """Whole runs of a part are one row each: against one run at a time, and attribution in the linear limit of a small change of z."""
    part = part_of(blip, name)
    component = part.architecture.head_component if name == "decoder" else "self_attention"
    ours = example(part, prepare_pair(part, make_pair(blip, "sip"), Scored(5, 6)))
    captured = capture(part, [ours], (component,))
    sets = torch.zeros(3, part.n_layers, part.n_heads, dtype=torch.bool)
    sets[1, 1, 2], sets[2] = True, True
    zero = torch.zeros_like(captured.states[component][0, 1])
    measured, _ = run_ablated(part, captured, component, sets, zero)
    verify_ablations(part, ours, component, sets, zero, measured, count=3)
    torch.testing.assert_close(measured[0], captured.measured[0, 1], atol=2e-5, rtol=0)
    assert (measured[2] - measured[0]).abs().max() > 0.01

    states = captured.states[component]
    near = states[:, :1] * 0.05 + states[:, 1:] * 0.95  # so that effects are linear
    moved = replace(captured, states={component: torch.cat([near, states[:, 1:]], 1)})
    every = tuple(range(states.shape[3]))
    estimate = of_cells(attribution(part, moved, component), [every])
    (patched_,) = sweep(part, moved, [patches(component, part.n_layers, part.n_heads, [Cell("", "", every)])])
    exact = (patched_[:, 0] - patched_[:, 1] - captured.measured[0, 1, 0] + captured.measured[0, 1, 1]).view(part.n_layers, part.n_heads)
    torch.testing.assert_close(estimate[..., 0], exact, atol=0.05 * float(exact.abs().max()), rtol=0)
    assert exact.abs().max() > 1e-3
