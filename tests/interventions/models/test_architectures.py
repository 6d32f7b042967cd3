"""Every architecture that is described, as a tiny model of random weights: the sweep against raw PyTorch hooks on what the processor makes.

Where its sites are is written down here again, from the models' code, so that a wrong description is noticed.
"""

from operator import attrgetter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from interventions.engine.budget import plan
from interventions.engine.capture import Example, capture
from interventions.engine.corrupt_embeddings import Noise
from interventions.engine.oracle.patching import run_plain, verify_patches
from interventions.engine.oracle.verify import VerificationError
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.models.architecture import ARCHITECTURES
from interventions.models.checks import check_sites
from interventions.models.loading import load, wrap
from interventions.models.names import ModelError
from interventions.results.roles import Cell
from tests.support import zoo
from tests.support.hooks import patched

LAYERS = dict.fromkeys(zoo.NAMES, "model.language_model.layers") | {
    "idefics3": "model.text_model.layers",
    "smolvlm": "model.text_model.layers",
    "instructblip": "language_model.model.layers",
    "blip_2": "language_model.model.decoder.layers",
}
SITES = {
    "self_attention": ("self_attn.o_proj", "input"),
    "cross_attention": ("cross_attn.o_proj", "input"),
    "mlp": ("mlp", "output"),
    "block": ("", "output"),
}
NEED_TORCHVISION = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "internvl", "mistral3")
QUESTIONS = ("Is the small circle red or blue?", "Is the small circle blue or red?")


@pytest.fixture(scope="module", params=zoo.NAMES)
def made(request):
    module, processor = zoo.make(request.param)
    return request.param, wrap(module, processor, request.param)


def pictures(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (448, 448, 3), dtype=np.uint8)) for _ in range(count)]


def site(name, component):
    path, side = SITES[component]
    return (path.replace("o_proj", "out_proj") if name == "blip_2" else path), side


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_sweep_agrees_with_raw_hooks(made, corruption):
    name, vlm = made
    images = pictures(2) if corruption == "image" else pictures(1) * 2
    questions = QUESTIONS if corruption == "text" else QUESTIONS[:1] * 2
    prompts = [vlm.prompt(question) for question in questions]
    inputs = [vlm.processed(vlm.template(question)[0], image) for image, question in zip(images, questions, strict=True)]
    for made_by_processor in inputs:
        made_by_processor.pop("labels", None)  # PaliGemma's, for training
    for prompt, made_by_processor in zip(prompts, inputs, strict=True):
        assert list(prompt.ids) == made_by_processor["input_ids"][0].tolist()

    def run(row):
        return vlm.module(**inputs[row]).logits[0, -1]

    pair = Example(vlm.ids(prompts), vlm.pixels(images), (5, 6))
    captured = capture(vlm, [pair], vlm.architecture.components)
    last = len(prompts[0].ids) - 1
    red = prompts[0].positions((20, 23))
    first_image = prompts[0].kinds.index("image")
    cells = [Cell("", "", at) for at in ((last,), red, (first_image, last - 1))]
    layers = attrgetter(LAYERS[name])(vlm.module)
    changed = 0
    for component in vlm.architecture.components:
        path, side = site(name, component)
        heads = vlm.n_heads if component in vlm.architecture.attention else None
        every = patches(component, vlm.n_layers, heads, cells)
        (measured,) = sweep(vlm, captured, [every])
        verify_patches(vlm, pair, every, measured, count=8)  # also where a layer has no such component
        for patch, row in list(zip(every, measured, strict=True))[:: 5 if heads else 2]:
            try:
                target = attrgetter(path)(layers[patch.layers[0]]) if path else layers[patch.layers[0]]
            except AttributeError:
                assert component not in vlm.components_of(patch.layers[0])  # Mllama's layers are of two kinds
                continue
            columns = slice(None) if patch.head is None else slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)
            logits = patched(run, {0: target}, side, patch.positions, columns)
            oracle = torch.stack([logits[5], logits[6], logits.logsumexp(-1)])
            torch.testing.assert_close(row, oracle, atol=5e-5, rtol=0)
            torch.testing.assert_close(run_plain(vlm, pair, patch), oracle, atol=5e-5, rtol=0)
            changed += not torch.equal(row, captured.measured[0, 1])
    assert changed > 5


@pytest.mark.parametrize("modality", ["image", "text"])
def test_noise_on_what_is_read_by_cross_attention_is_that_of_raw_hooks(modality):
    module, processor = zoo.make("mllama")
    vlm = wrap(module, processor, "mllama")
    prompt, pixels = vlm.prompt(QUESTIONS[0]), vlm.pixels(pictures(1) * 2)
    there = vlm.embedded_positions(modality, prompt)
    values = torch.randn(len(there), vlm.embedding_width(modality), generator=torch.Generator().manual_seed(0)) * there[:, None]
    ours = Example(vlm.ids([prompt, prompt]), pixels, (5, 6), noise=Noise(modality, values.float(), torch.ones(len(there))))
    captured = capture(vlm, [ours], ("cross_attention",))
    inputs = vlm.processed(vlm.template(QUESTIONS[0])[0], pictures(1)[0])

    def run(noisy):
        if not noisy:
            return module(**inputs).logits[0, -1]
        text_model = module.model.language_model
        if modality == "text":
            handle = text_model.embed_tokens.register_forward_hook(lambda _, args, output: output + values)
        else:

            def add(_, args, given):
                states = given["cross_attention_states"]
                return args, given | {"cross_attention_states": states + values.view_as(states)}

            handle = text_model.register_forward_pre_hook(add, with_kwargs=True)
        try:
            return module(**inputs).logits[0, -1]
        finally:
            handle.remove()

    every = patches("cross_attention", vlm.n_layers, vlm.n_heads, [Cell("", "", (len(prompt.ids) - 1,))])
    (measured,) = sweep(vlm, captured, [every])
    layers = attrgetter(LAYERS["mllama"])(module)
    path, side = site("mllama", "cross_attention")
    for patch, row in zip(every, measured, strict=True):
        if "cross_attention" in vlm.components_of(patch.layers[0]):
            columns = slice(patch.head * vlm.head_dim, (patch.head + 1) * vlm.head_dim)
            logits = patched(run, {0: attrgetter(path)(layers[patch.layers[0]])}, side, patch.positions, columns)
            torch.testing.assert_close(row, torch.stack([logits[5], logits[6], logits.logsumexp(-1)]), atol=5e-5, rtol=0)
    plain, noisy = (run(row)[5] - run(row)[6] for row in (0, 1))
    assert abs(plain - noisy) > 0.01


def test_it_passes_the_causal_checks_and_answers(made):
    _, vlm = made
    check_sites(vlm)
    answers = vlm.generate([*QUESTIONS, "Is it red or blue?"], pictures(3))
    assert len(answers) == 3


def test_a_prompt_is_the_chat_templates_with_its_first_token_once(made):
    """As transformers itself tokenizes a chat."""
    _, vlm = made
    if vlm.architecture.template != "chat":
        pytest.skip("its prompt is not made by a chat template")
    content = [{"type": "image", "image": vlm.square(vlm.blank)}, {"type": "text", "text": f"{QUESTIONS[0]} Answer with one word."}]
    chat = [{"role": "user", "content": content}]
    expected = vlm.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"][0]
    assert list(vlm.prompt(QUESTIONS[0]).ids) == list(expected)
    answer = vlm.answer_ids(QUESTIONS[0], "red")
    assert vlm.processor.tokenizer.decode(answer).strip() == "red"
    assert vlm.processor.tokenizer.bos_token_id not in answer


def test_a_saved_checkpoint_is_loaded_and_passes_the_causal_checks(made, tmp_path):
    """The files alone: no weight is missed, none is made anew, and the prompt is the same."""
    name, vlm = made
    if name in NEED_TORCHVISION and not is_torchvision_available():
        pytest.skip("its processor needs torchvision")
    vlm.module.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), "cpu")
    assert loaded.architecture.name == vlm.architecture.name
    assert loaded.prompt(QUESTIONS[0]).ids == vlm.prompt(QUESTIONS[0]).ids
    ours, theirs = vlm.module.state_dict(), loaded.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weights, theirs[path]) for path, weights in ours.items())


def test_it_can_be_planned_and_shows_its_attention(made):
    _, vlm = made
    assert plan(vlm, [len(vlm.prompt(QUESTIONS[0]).ids)]).samples >= 1
    with vlm.showing_attention():
        assert vlm.module.config.get_text_config()._attn_implementation == "eager"


def test_roles_of_tokens(made):
    """The question's words stand where they stand, whatever the processor puts before and after them."""
    _, vlm = made
    prompt = vlm.prompt(QUESTIONS[0])
    said = ["".join(prompt.words[i] for i in prompt.positions((at, at + len(word)))).strip() for word, at in (("red", 20), ("blue", 27))]
    assert said == ["red", "blue"]
    assert QUESTIONS[0][20:23] == "red"
    kinds = prompt.kinds
    assert kinds.count("image") >= 1
    assert all(kind == "question" for kind, span in zip(kinds, prompt.spans, strict=True) if span)
    assert max(i for i, kind in enumerate(kinds) if kind == "image") < min(i for i, span in enumerate(prompt.spans) if span)
    assert vlm.answer_ids(QUESTIONS[0], "red") != vlm.answer_ids(QUESTIONS[0], "blue")


def test_every_description_has_a_model_here():
    described = {kind for architecture in ARCHITECTURES for kind in architecture.model_types}
    made = {zoo.make(name)[0].config.model_type for name in zoo.NAMES}
    assert described - made == {"blip", "llava"}  # the shipped ones


def test_an_unknown_type_of_the_common_layout_is_tried_and_said_to_be(caplog, monkeypatch):
    module, processor = zoo.make("llava_next")
    monkeypatch.setattr(module.config, "model_type", "llava_of_tomorrow")
    vlm = wrap(module, processor, "new")
    assert "'llava_of_tomorrow' has no description" in caplog.text
    assert vlm.architecture.name == "llava_of_tomorrow"
    check_sites(vlm)


def test_an_unknown_type_that_fails_verification_is_told_how_to_be_described(monkeypatch):
    """Gemma 3's image tokens read each other, which the common layout does not know."""
    module, processor = zoo.make("gemma3")
    known = wrap(module, processor, "known")
    monkeypatch.setattr(module.config, "model_type", "gemma_of_tomorrow")
    vlm = wrap(module, processor, "new")
    prompt = vlm.prompt(QUESTIONS[0])
    pair = Example(vlm.ids([prompt, prompt]), vlm.pixels(pictures(2)), (5, 6))
    every = patches("block", vlm.n_layers, None, [Cell("", "", (prompt.kinds.index("image"),))])
    (measured,) = sweep(vlm, capture(vlm, [pair], ("block",)), [every])
    with pytest.raises(VerificationError, match=r"'gemma_of_tomorrow' has no description.*causal_from=\"image\"") as raised:
        verify_patches(vlm, pair, every, measured)
    assert "report it" not in str(raised.value)
    with pytest.raises(VerificationError, match=r"Please report it with the model's config\.json"):
        verify_patches(known, pair, every, measured)


def test_an_unknown_type_of_another_layout_says_what_to_do(tmp_path, monkeypatch):
    module, processor = zoo.make("idefics3")
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr("interventions.models.loading.ARCHITECTURES", ())
    monkeypatch.setattr("interventions.models.architecture.ARCHITECTURES", ())
    with pytest.raises(ModelError, match=r"no description, and the common layout does not fit.*language_model.*Describe it in"):
        load(str(tmp_path), "cpu")
