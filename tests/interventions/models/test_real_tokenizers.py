"""Prompts, roles and answers on the real checkpoints' processors, where their small files are at hand (weights are random, or none)."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from benchmarks.models import blip_base, llava
from corruptions.base import Pair
from data_prep.tables.sample import option_spans
from interventions.models.loading import wrap
from interventions.results.roles import roles, tokens_of_roles

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "hf_configs"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the real checkpoints' small files are not here")
QUESTION = "Is this person feeling surprised or angry?"


@pytest.fixture(scope="module")
def real_blip():
    return wrap(blip_base(vision_layers=1, layers=1).module, AutoProcessor.from_pretrained(SHARED / "blip-vqa-base.RECONSTRUCTED"), "blip")


@pytest.fixture(scope="module")
def real_llava():
    processor = AutoProcessor.from_pretrained(SHARED / "llava-1.5-7b-hf")
    small = llava(layers=1, heads=2, width=32, feed_forward=32, vision_layers=1, vision_width=64, vocabulary=32064)
    small.module.config.image_token_id = small.module.config.image_token_index = 32000
    return wrap(small.module, processor, "llava")


def cells(vlm, question, correct, incorrect, *wanted):
    options = option_spans(question, correct, incorrect)
    row = {"noun": "person", "question": question, "clean_image": None}
    prompt = vlm.prompt(question)
    found = roles(prompt, Pair(row, "clean_image", question, options, options), vlm.architecture.causal)
    return prompt, {cell.role: cell for cell in tokens_of_roles(prompt, found, wanted)}


@pytest.mark.parametrize("kind", ["real_blip", "real_llava"])
def test_options_of_several_pieces_are_found(request, kind):
    vlm = request.getfixturevalue(kind)
    question = "Is this person feeling fearful or disgusted?"
    prompt, found = cells(vlm, question, "disgusted", "fearful", "correct", "incorrect", "or", "noun", "?")
    said = {role: "".join(prompt.words[i] for i in cell.positions) for role, cell in found.items()}
    assert said == {"correct": "disgusted", "incorrect": "fearful", "or": "or", "noun": "person", "?": "?"}
    pieces = {"real_blip": (1, 1), "real_llava": (3, 2)}[kind]  # Llama's pieces as the data's manifest counts them
    assert (len(found["correct"].positions), len(found["incorrect"].positions)) == pieces


def test_llavas_prompt(real_llava):
    prompt, found = cells(real_llava, QUESTION, "angry", "surprised", "last", "assistant", "image")
    assert len(found["image"].positions) == 576
    assert len(prompt.ids) in (576 + len(real_llava.processor.tokenizer(prompt.text)["input_ids"]) - 1,)
    assert prompt.words[-1] == ":"
    assert "ASSISTANT".startswith(prompt.words[found["assistant"].positions[0]])
    assert [real_llava.processor.tokenizer.decode(real_llava.answer_ids(QUESTION, word)) for word in ("angry", "surprised")] == [
        "angry",
        "surprised",
    ]


def test_answers_that_begin_alike_are_told_apart_where_they_differ(real_llava):
    scored = real_llava.scored("Is this disgusting or disgusted?", "disgusting", "disgusted")
    assert scored.forced
    assert real_llava.answer_ids("Is this disgusting or disgusted?", "disgusting")[: len(scored.forced)] == scored.forced
    assert scored.correct != scored.incorrect


def test_the_structure_of_llava_7b_without_its_weights(real_llava):
    """Every site of all 32 layers x 32 heads, on the meta device."""
    config = AutoConfig.from_pretrained(SHARED / "llava-1.5-7b-hf")
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(config)
    vlm = wrap(module.requires_grad_(False), real_llava.processor, "llava-1.5-7b")
    assert (vlm.n_layers, vlm.n_heads, vlm.head_dim, vlm.width) == (32, 32, 128, 4096)
    for number in range(vlm.n_layers):
        assert vlm.components_of(number) == ["self_attention", "mlp", "block"]
        assert vlm.port("self_attention").envoy(vlm.layers[number])._module.in_features == 32 * 128
    assert vlm.prompt(QUESTION).kinds.count("image") == 576
