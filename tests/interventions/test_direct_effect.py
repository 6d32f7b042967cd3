"""Direct effects: their sum, each against plain PyTorch, the logit lens, the file, and models for which there are none."""

import sys

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

from interventions import direct_effect
from interventions.backends.opening import prepare
from interventions.direct_effect import direct_effects
from interventions.engine.capture import Example, example
from interventions.engine.pairs import prepare_pair
from interventions.methods import direct_effect as method
from interventions.methods.direct_effect import NotAdditiveError, check_decoder, largest_heads, lens_table, of_example
from interventions.models.loading import wrap
from interventions.models.readout import readout
from interventions.results import effects as effects_schema
from interventions.study.options import Options
from tests.support import zoo

PARTS = ("head_effect", "mlp_effect", "embedding_effect", "bias_effect")
QUESTION = "Is the small circle red or blue?"


@pytest.fixture
def study(tmp_path, data, llava):
    return prepare(Options(model=llava.name, data=data, samples=2, out=tmp_path / "results", device="cpu"), llava)


def example_of(vlm, pair):
    return example(
        vlm, prepare_pair(vlm, pair, vlm.scored(pair.clean_question, pair.sample["correct_answer"], pair.sample["incorrect_answer"]))
    )


def tiny(name):
    vlm = wrap(*zoo.make(name), name)
    images = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8))] * 2
    prompt = vlm.prompt(QUESTION)
    return vlm, Example(vlm.ids([prompt, prompt]), vlm.pixels(images), (5, 6))


@torch.no_grad()
def kept(module, run, targets):
    """The last token's input ("input") or output of some modules in one run, by raw hooks."""
    found = {}

    def keep(name, side):
        def hook(_, inputs, output):
            value = inputs[0] if side == "input" else output
            found[name] = value[0, -1].clone()

        return hook

    handles = [target.register_forward_hook(keep(name, side)) for name, (target, side) in targets.items()]
    logits = run()
    for handle in handles:
        handle.remove()
    return found, logits


def run_llava(llava, ours):
    pixels = ours.pixels["pixel_values"][0]
    return llava.module(input_ids=ours.ids[:1], pixel_values=pixels, attention_mask=torch.ones_like(ours.ids[:1])).logits[0, -1]


@pytest.mark.parametrize("number", range(4))
def test_the_parts_sum_to_the_logit_difference(llava, make_pair, number):
    ours = example_of(llava, make_pair(llava, "sip", number))
    found = of_example(llava, ours)
    with torch.no_grad():
        logits = run_llava(llava, ours)
    expected = float(logits[ours.answers[0]] - logits[ours.answers[1]])
    assert abs(expected) > 1
    assert sum(float(found[name].sum()) for name in PARTS) == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(found["clean"], [*logits[list(ours.answers)], logits.logsumexp(-1)], atol=1e-5)


@pytest.mark.parametrize("name", ["llava_next_mistral", "qwen2_vl", "qwen3_vl", "smolvlm", "internvl", "paligemma", "instructblip"])
def test_the_parts_sum_to_the_logit_difference_in_other_decoders(name):
    """Shared keys and values, norms that multiply by one more than their weight, biases, image features in later layers."""
    vlm, ours = tiny(name)
    found = of_example(vlm, ours)
    total = sum(float(found[part].sum()) for part in PARTS)
    assert total == pytest.approx(float(found["clean"][0] - found["clean"][1]), abs=1e-4)
    np.testing.assert_allclose(found["lens"][-1], found["clean"], atol=1e-5)


def test_each_part_is_what_plain_pytorch_gives(llava, make_pair):
    """RMSNorm with the root mean square of the run itself, by its formula; a head by its columns of W_O."""
    ours = example_of(llava, make_pair(llava, "sip", 1))
    found = of_example(llava, ours)
    text, head = llava.module.model.language_model, llava.module.lm_head
    targets = {f"z{i}": (layer.self_attn.o_proj, "input") for i, layer in enumerate(text.layers)}
    targets |= {f"mlp{i}": (layer.mlp, "output") for i, layer in enumerate(text.layers)}
    targets |= {f"stream{i}": (layer, "output") for i, layer in enumerate(text.layers)} | {"embedding": (text.layers[0], "input")}
    states, _ = kept(llava.module, lambda: run_llava(llava, ours), targets)
    last = states[f"stream{llava.n_layers - 1}"]
    scale = (last.pow(2).mean() + text.norm.variance_epsilon).sqrt()
    direction = text.norm.weight / scale * (head.weight[ours.answers[0]] - head.weight[ours.answers[1]])
    for layer in range(llava.n_layers):
        output = text.layers[layer].self_attn.o_proj.weight
        for number in range(llava.n_heads):
            columns = slice(number * llava.head_dim, (number + 1) * llava.head_dim)
            expected = output[:, columns] @ states[f"z{layer}"][columns] @ direction
            assert found["head_effect"][layer, number] == pytest.approx(float(expected), abs=1e-5)
        assert found["mlp_effect"][layer] == pytest.approx(float(states[f"mlp{layer}"] @ direction), abs=1e-5)
        lens = head(text.norm(states[f"stream{layer}"]))
        np.testing.assert_allclose(found["lens"][layer], [*lens[list(ours.answers)], lens.logsumexp(-1)], atol=1e-5)
    assert found["embedding_effect"] == pytest.approx(float(states["embedding"] @ direction), abs=1e-5)
    assert found["bias_effect"] == pytest.approx(0, abs=1e-6)  # LLaVA's language model has none


def test_the_readout_of_a_layer_norm_with_biases():
    vlm, ours = tiny("blip_2")
    norm, head = vlm.module.language_model.model.decoder.final_layer_norm, vlm.module.language_model.lm_head
    assert isinstance(norm, nn.LayerNorm)
    assert norm.bias.abs().max() > 0.01
    torch.manual_seed(0)
    state, other = torch.randn(2, vlm.width)
    pixels = {name: values[:1] for name, values in ours.pixels.items()}
    with torch.no_grad(), vlm.model.trace(**vlm.inputs(ours.ids[:1], pixels)):
        vlm.logits()
        found = readout(vlm, state, 5, 6).save()
    logits = head(norm(state))
    torch.testing.assert_close(found.direction @ state + found.constant, logits[5] - logits[6], atol=1e-4, rtol=1e-4)
    centred = (other - other.mean()) / (state.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias  # at the state's scale
    expected = centred @ (head.weight[5] - head.weight[6])
    torch.testing.assert_close(found.direction @ other + found.constant, expected, atol=1e-4, rtol=1e-4)


def test_the_file_names_everything_and_goes_on_where_it_was(study, monkeypatch):
    real, count = method.of_example, iter(range(3))

    def interrupted(*arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(method, "of_example", interrupted)
    with pytest.raises(KeyboardInterrupt):
        direct_effects(study)
    redone = []
    monkeypatch.setattr(method, "of_example", lambda *arguments: redone.append(1) or real(*arguments))
    path = direct_effects(study)
    assert len(redone) == 8 - 3
    with xr.open_dataset(path) as dataset:
        assert dataset["head_effect"].dims == ("sample", "layer", "head")
        total = sum(dataset[name].sum([dim for dim in dataset[name].dims if dim != "sample"]) for name in PARTS)
        np.testing.assert_allclose(total, dataset.effects.logit_difference_of("clean"), atol=1e-4)
        lens = dataset.effects.logit_difference_of()  # after each layer
        assert lens.dims == ("sample", "layer")
        np.testing.assert_allclose(lens.isel(layer=-1), dataset.effects.logit_difference_of("clean"), atol=1e-5)
        assert float(dataset.effects.probability_of().isel(layer=-1).min()) > 0.3  # the answers are the model's own
        pair = study.pairs("sip")[0][2]
        one = of_example(study.vlm, example(study.vlm, pair))
        row = dataset.sel(sample=pair.sample["sample_id"])
        np.testing.assert_allclose(row["head_effect"], one["head_effect"], atol=1e-6)
        np.testing.assert_allclose([row[name][0] for name in effects_schema.MEASUREMENTS], one["lens"][0], atol=1e-6)
    assert path == study.folder / "direct_effect.nc"


def test_models_that_are_no_decoders_are_refused(blip):
    with pytest.raises(ValueError, match=r"blip-shapes \(blip\) is no causal decoder: .*patch its heads instead"):
        check_decoder(blip)
    vlm, _ = tiny("blip_2")
    with pytest.raises(ValueError, match="need the output of every mlp, which cannot be read in blip_2"):
        check_decoder(vlm)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma3", r"layer 0 of gemma3 does not add its attention's and its MLP's output to the residual stream as they are"),
        ("mllama", r"layer 1 of mllama has no self_attention"),
    ],
)
def test_models_whose_parts_do_not_add_up_are_refused(name, message):
    with pytest.raises(NotAdditiveError, match=message):
        of_example(*tiny(name))


def test_logits_that_are_soft_capped_are_refused():
    vlm, ours = tiny("llava_next")
    handle = vlm.module.lm_head.register_forward_hook(lambda _, inputs, output: 2 * torch.tanh(output / 2))
    try:
        with pytest.raises(NotAdditiveError, match=r"sum to .*, its logit difference is .*soft-capped"):
            of_example(vlm, ours)
    finally:
        handle.remove()


def test_the_script_ends_with_the_file_or_one_message(tmp_path, data, monkeypatch, capsys):
    arguments = ["--data", data, "--samples", "1", "--out", str(tmp_path / "results"), "--device", "cpu", "--model"]
    monkeypatch.setattr(sys, "argv", ["direct_effect", *arguments, "llava-shapes"])
    direct_effect.main()
    printed = capsys.readouterr().out.strip()
    assert printed.endswith("llava-shapes/shapes/direct_effect.nc")
    with xr.open_dataset(printed.splitlines()[-1]) as dataset:
        means = dataset["head_effect"].mean("sample")
        rows = largest_heads(dataset, 3)["direct_effect"]
        assert [abs(value) for value in rows] == sorted(abs(means.values.ravel()))[:-4:-1]
        assert all(float(means.sel(layer=layer, head=head)) == value for (layer, head), value in rows.items())
        rows = lens_table(dataset)
        assert rows["LD"].iloc[-1] == pytest.approx(float(dataset.effects.logit_difference_of("clean").mean()), abs=1e-4)
        assert f"{rows['LD'].iloc[-1]:.3f}" in printed
    monkeypatch.setattr(sys, "argv", ["direct_effect", *arguments, "blip-shapes"])
    with pytest.raises(SystemExit, match=r"^interventions.direct_effect: blip-shapes \(blip\) is no causal decoder"):
        direct_effect.main()


def test_the_lens_has_its_divergence_from_the_answer(llava, make_pair):
    ours = example_of(llava, make_pair(llava, "sip"))
    lens = of_example(llava, ours, divergence=True)["lens"]
    np.testing.assert_allclose(lens[:, :3], of_example(llava, ours)["lens"], atol=1e-6)
    assert lens[-1, 3] == pytest.approx(0, abs=1e-5)
    assert lens[0, 3] > 0.1
