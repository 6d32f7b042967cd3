"""Loading: what is refused, and that a wrong site is noticed; the real checkpoints' shapes go through the same code."""

import dataclasses
import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Blip2Config, BlipForConditionalGeneration, Gemma4TextConfig

from benchmarks.models import blip_base, llava
from interventions.engine.capture import BASE, Example, capture, example
from interventions.engine.oracle.patching import run_plain
from interventions.engine.pairs import prepare_pair
from interventions.engine.plan import Patch, patches
from interventions.engine.sweep import sweep
from interventions.models import names
from interventions.models.architecture import BLIP, Port, of_model_type
from interventions.models.checks import SiteError, check_sites
from interventions.models.loading import check_config, choose_device, describe, fingerprint, load
from interventions.models.names import CHECKPOINTS, ModelError
from interventions.models.vlm import Scored
from interventions.results.roles import Cell


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blip-shape", r"unknown model 'blip-shape': not shipped \(blip-shapes, llava-shapes\)"),
        ("no/such/folder", "unknown model"),
        ("./missing", "unknown model"),
    ],
)
def test_an_unknown_model_is_refused(name, message):
    with pytest.raises(ModelError, match=message):
        load(name)


def test_cuda_that_is_absent_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match=r"sees no CUDA device; use --device cpu"):
        load("blip-shapes", device="cuda")


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ModelError, match="'cuda:2' was asked for, and this machine's last is cuda:1"):
        choose_device("cuda:2")


def test_a_device_and_a_dtype_that_do_not_exist():
    with pytest.raises(ModelError, match="unknown device 'gpu9'"):
        load("blip-shapes", device="gpu9")
    with pytest.raises(ModelError, match="unknown dtype 'float8'"):
        load("blip-shapes", device="cpu", dtype="float8")


def copy_checkpoint(name, folder, **text_config):
    shutil.copytree(CHECKPOINTS / name, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text_config
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blip-shapes", r"7 attention heads and width 96.*config\.json"),
        ("llava-shapes", r"could not load.*hidden size \(96\) is not a multiple of the number of attention heads \(7\)"),
    ],
)
def test_heads_that_do_not_divide_the_width(name, message, tmp_path):
    folder = copy_checkpoint(name, tmp_path / "broken", num_attention_heads=7)
    with pytest.raises(ModelError, match=message):
        load(folder, device="cpu")


def test_an_architecture_without_description(tmp_path):
    folder = copy_checkpoint("blip-shapes", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"no description of model type 'bert'.*there are: blip, llava"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        ("blip-shapes", "text_decoder", r"lacks 115 weights of a BlipForQuestionAnswering: text_decoder\.bert\.\S*, \S*, \S*, \.\.\.$"),
        ("llava-shapes", "layers.5.mlp.up_proj", r"lacks 1 weights of a Llava\S*: model\.language_model\.layers\.5\.mlp\.up_proj\.weight$"),
    ],
)
def test_weights_that_a_checkpoint_lacks_are_not_made_up(name, lost, message, tmp_path):
    folder = copy_checkpoint(name, tmp_path / "lacking")
    path = tmp_path / "lacking" / "model.safetensors"
    save_file({key: weights for key, weights in load_file(path).items() if lost not in key}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load(folder, device="cpu")


def test_a_model_of_another_task_is_refused_by_its_name(blip, tmp_path):
    """Captioning BLIP has the same model type, and other weights."""
    captioning = BlipForConditionalGeneration(blip.module.config)
    captioning.save_pretrained(tmp_path)
    blip.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks \d+ weights of a BlipForQuestionAnswering: .* it is a BlipForConditionalGeneration$"):
        load(str(tmp_path), device="cpu")


def test_the_number_of_blips_heads_is_never_guessed(tmp_path):
    folder = copy_checkpoint("blip-shapes", tmp_path / "headless")
    config = json.loads((tmp_path / "headless" / "config.json").read_text())
    del config["text_config"]["num_attention_heads"]
    (tmp_path / "headless" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json lacks text_config\.num_attention_heads"):
        load(folder, device="cpu")


def test_code_of_a_checkpoint_is_never_run(tmp_path, monkeypatch):
    """Nor asked for: transformers would ask whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = copy_checkpoint("llava-shapes", tmp_path / "own")
    (tmp_path / "own" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    path = tmp_path / "own" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(ModelError, match=r"wants code of its own to be run, .* which this program never does"):
        load(folder, device="cpu")
    shutil.copy(CHECKPOINTS / "llava-shapes" / "config.json", path)
    processor = tmp_path / "own" / "processor_config.json"
    written = {**json.loads(processor.read_text()), "processor_class": "Mine", "auto_map": {"AutoProcessor": "evil.Processor"}}
    processor.write_text(json.dumps(written))
    with pytest.raises(ModelError, match="wants code of its own to be run"):
        load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_never_read(tmp_path):
    folder = copy_checkpoint("blip-shapes", tmp_path / "pickled")
    path = tmp_path / "pickled" / "model.safetensors"
    before = fingerprint(folder, AutoConfig.from_pretrained(folder), None)
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    assert fingerprint(folder, AutoConfig.from_pretrained(folder), None) == before
    load(folder, device="cpu", check=False)
    path.unlink()
    with pytest.raises(ModelError, match=r"weights as a pickle \(pytorch_model\.bin\).*call save_pretrained\(<folder>\)"):
        load(folder, device="cpu")


def test_language_models_of_an_encoder_and_a_decoder_are_refused(tmp_path):
    config = Blip2Config(text_config={"model_type": "t5", "d_model": 32, "num_heads": 4, "num_layers": 2}, num_query_tokens=6)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"its language model is of type 't5', an encoder and a decoder; such models are not described"):
        load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("text_config", "message"),
    [
        (
            Gemma4TextConfig(num_hidden_layers=6),
            r"layers of type 'gemma4_text' are not all of one size.*'head_dim' is a per-layer attribute",
        ),
        ({"model_type": "llama_of_tomorrow"}, "transformers does not know the type 'llama_of_tomorrow' of the text_config"),
        (SimpleNamespace(num_hidden_layers=2, hidden_size=8), "does not say text_config.num_attention_heads, text_config.max_position_emb"),
    ],
)
def test_a_config_that_does_not_say_what_its_layers_are(text_config, message):
    config = SimpleNamespace(model_type="new", text_config=text_config, vision_config=SimpleNamespace())
    with pytest.raises(ModelError, match=message):
        check_config(config, describe(config))


def test_damaged_weights(tmp_path):
    folder = copy_checkpoint("blip-shapes", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not load"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block": Port("output.dense")}, "exchanging it between two images"),
        ({"mlp": Port("attention.output.dense")}, "layer 0 does not compute its sites in the order"),
        ({"mlp": Port("intermediate.dense")}, "mlp of layer 0 has shape"),
        ({"z": Port("crossattention.output.dense")}, "the output projection of z is not the attention's output"),
    ],
)
def test_a_site_that_is_not_what_it_claims_is_noticed(blip, wrong, message):
    if "z" in wrong:
        cross = dataclasses.replace(BLIP.attention["cross_attention"], z=wrong["z"])
        wrong = {"attention": BLIP.attention | {"cross_attention": cross}}
    claimed = type(blip)(blip.model, blip.processor, dataclasses.replace(BLIP, **wrong), "claimed", "")
    with pytest.raises(SiteError, match=message):
        check_sites(claimed)


def test_a_component_that_an_architecture_lacks():
    with pytest.raises(ValueError, match="llava has no component 'cross_attention'; choose from self_attention, mlp, block"):
        of_model_type("llava").port("cross_attention")


def test_a_remote_trace_never_runs_locally(blip):
    """Plain NNsight would swallow `remote`; this wrapper goes for the host, which is not there."""
    inputs = blip.inputs(blip.ids([blip.prompt("Is it red or blue?")]), blip.pixels([Image.new("RGB", (64, 64))]))
    with pytest.raises(Exception) as raised, blip.model.trace(**inputs, remote=True):  # noqa: PT011
        blip.logits().save()
    assert "logits" not in str(raised.value)


def test_the_hub_names_lead_to_the_hub():
    assert names.resolve("blip-vqa-base")[1] == "Salesforce/blip-vqa-base"
    assert names.resolve("llava-1.5-7b")[1] == "llava-hf/llava-1.5-7b-hf"
    assert names.resolve("someone/some-vlm")[1] == "someone/some-vlm"


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_the_real_checkpoints_shapes_with_random_weights(kind):
    """blip-vqa-base whole (12 layers x 12 heads, 577 image keys), and LLaVA-1.5's 32 heads of 128 and 576 image tokens in 2 layers."""
    if kind == "blip":
        vlm = blip_base()
        assert (vlm.n_layers, vlm.n_heads, vlm.head_dim) == (12, 12, 64)
    else:
        vlm = llava(layers=2, heads=32, width=4096, feed_forward=1024, vision_layers=2, vision_width=1024)
        assert (vlm.n_heads, vlm.head_dim, vlm.prompt("?").kinds.count("image")) == (32, 128, 576)
    check_sites(vlm)
    question = "Is this person feeling happy or angry?"
    prompt = vlm.prompt(question)
    pixels = vlm.pixels([Image.new("RGB", (640, 480), colour) for colour in ("red", "blue")])
    answers = (vlm.answer_ids(question, "happy")[0], vlm.answer_ids(question, "angry")[0])
    pair = Example(vlm.ids([prompt, prompt]), pixels, answers)
    component = vlm.architecture.head_component
    captured = capture(vlm, [pair], (component,))
    patches = [Patch(component, (layer,), head, (len(prompt.ids) - 1,)) for layer, head in ((0, 0), (1, vlm.n_heads - 1))]
    (measured,) = sweep(vlm, captured, [patches])
    for patch, row in zip(patches, measured, strict=True):
        torch.testing.assert_close(row, run_plain(vlm, pair, patch), atol=1e-4, rtol=1e-5)
        assert not torch.equal(row, captured.measured[0, BASE])


def test_four_bit_weights_go_the_same_way(tmp_path, make_pair):
    """Sweep and plain path agree; the weights are 4-bit ones, so the numbers are others."""
    pytest.importorskip("bitsandbytes")
    random = llava(layers=2, heads=4, width=128, feed_forward=256, vision_layers=2, vision_width=64)
    random.module.save_pretrained(tmp_path)
    random.processor.save_pretrained(tmp_path)
    vlm, exact = load(str(tmp_path), "cpu", "nf4"), load(str(tmp_path), "cpu")
    assert (vlm.number_format, exact.number_format) == ("nf4", "float32")
    pair = make_pair(vlm, "sip")
    component = vlm.architecture.head_component
    ours, theirs = (example(model, prepare_pair(model, pair, Scored(5, 6))) for model in (vlm, exact))
    captured = capture(vlm, [ours], (component,))
    every = patches(component, vlm.n_layers, vlm.n_heads, [Cell("", "", (captured.lengths[0] - 1,))])
    (measured,) = sweep(vlm, captured, [every])
    for patch, row in list(zip(every, measured, strict=True))[::3]:
        torch.testing.assert_close(row, run_plain(vlm, ours, patch), atol=1e-4, rtol=1e-5)
    assert (capture(exact, [theirs], (component,)).measured - captured.measured).abs().max() > 1e-3


def test_four_bit_weights_on_a_cpu_need_widths_in_whole_blocks():
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match="nf4 on a CPU needs widths that 64 divides; the model has 96"):
        load("llava-shapes", "cpu", "nf4")


def test_four_bit_weights_without_their_packages_say_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest))
    with pytest.raises(ModelError, match=r"nf4 needs bitsandbytes.*pip install -r requirements-nf4.txt"):
        load("blip-shapes", "cpu", "nf4")
