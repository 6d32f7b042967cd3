"""Loading: what is refused, and that a wrong site is noticed; the real checkpoints' shapes go through the same code."""

import dataclasses
import json
import shutil

import pytest
import torch
from PIL import Image

from benchmarks.models import blip_base, llava
from interventions.capture import CORRUPT, capture
from interventions.models import loading
from interventions.models.architecture import BLIP, Port, of_model_type
from interventions.models.checks import SiteError, check_sites
from interventions.models.loading import CHECKPOINTS, ModelError, load
from interventions.plain import run_plain
from interventions.plan import Patch
from interventions.sweep import sweep


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
    assert loading.resolve("blip-vqa-base")[1] == "Salesforce/blip-vqa-base"
    assert loading.resolve("llava-1.5-7b")[1] == "llava-hf/llava-1.5-7b-hf"
    assert loading.resolve("someone/some-vlm")[1] == "someone/some-vlm"


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_the_real_checkpoints_shapes_with_random_weights(kind):
    """blip-vqa-base's sizes (12 layers x 12 heads, 577 image keys), and LLaVA-1.5's 32 heads of 128 and 576 image tokens in 2 layers."""
    if kind == "blip":
        vlm = blip_base(vision_layers=2)
        assert (vlm.n_layers, vlm.n_heads, vlm.head_dim) == (12, 12, 64)
    else:
        vlm = llava(layers=2, heads=32, width=4096, feed_forward=1024, vision_layers=2, vision_width=1024)
        assert (vlm.n_heads, vlm.head_dim, vlm.tokens_per_image) == (32, 128, 576)
    check_sites(vlm)
    question = "Is this person feeling happy or angry?"
    prompt = vlm.prompt(question)
    pixels = vlm.pixels([Image.new("RGB", (640, 480), colour) for colour in ("red", "blue")])
    component = vlm.architecture.head_component
    captured = capture(
        vlm, vlm.ids([prompt, prompt]), pixels, (vlm.answer_id(question, "happy"), vlm.answer_id(question, "angry")), (component,)
    )
    patches = [Patch(component, layer, head, (len(prompt.ids) - 1,)) for layer, head in ((0, 0), (1, vlm.n_heads - 1))]
    measured = sweep(vlm, captured, patches)
    for patch, row in zip(patches, measured, strict=True):
        torch.testing.assert_close(row, run_plain(vlm, captured, pixels, patch), atol=1e-4, rtol=1e-5)
        assert not torch.equal(row, captured.measured[CORRUPT])
