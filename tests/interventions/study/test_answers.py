"""The model's own answers: greedy whatever the checkpoint says, long enough for every option, asked anew when something else is asked."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from data_prep.tables import schema as samples
from interventions.models.loading import wrap
from interventions.models.vlm import greedy
from interventions.study import answers
from interventions.study.answers import answer_all, answer_tokens
from tests.support import zoo

QUESTIONS = ("Is the small circle red or blue?", "Is it red or blue?")
SETTINGS = (
    {"repetition_penalty": 6.0, "no_repeat_ngram_size": 1},
    {"num_beams": 4, "length_penalty": -3.0},
    {"min_new_tokens": 6, "do_sample": True, "temperature": 50.0},
    {"suppress_tokens": list(range(0, 30, 2)), "forced_eos_token_id": 3},
)


@pytest.fixture(scope="module")
def talking():
    """A model with random weights, which go on speaking."""
    return wrap(*zoo.make("llava_next"), "talking")


@pytest.fixture
def table(shapes):
    """A table in which one option is long."""
    rows = [dict(shapes[i]) for i in range(4)]
    long = " ".join(["small", "red", "circle"] * 4)
    question = f"Is it a {long} or a square?"
    rows[3] |= {"question": question, "correct_answer": long, "incorrect_answer": "square", "correct_first": True}
    rows[3] |= {"clean_attributes": "", "corrupt_attributes": ""}
    return samples.build(rows)


def pictures(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: next(iter(settings)))
@pytest.mark.parametrize("name", ["blip", "llava", "gemma3", "instructblip", "blip_2"])
def test_answers_are_greedy_whatever_the_checkpoint_says(name, settings, request):
    vlm = request.getfixturevalue(name) if name in ("blip", "llava") else wrap(*zoo.make(name), name)
    plain = vlm.generate(QUESTIONS, pictures(2))
    speaking = getattr(vlm.module, "text_decoder", getattr(vlm.module, "language_model", vlm.module))
    before = speaking.generation_config
    special = {key: getattr(before, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    speaking.generation_config = given = GenerationConfig(**special, **settings)
    try:
        assert vlm.generate(QUESTIONS, pictures(2)) == plain
        assert speaking.generation_config is given
    finally:
        speaking.generation_config = before


def test_greedy_answers_are_the_likeliest_tokens(talking):
    """One by one, by the logits of forward passes; a repetition penalty alone would give others."""
    image, prompt = pictures(1), talking.prompt(QUESTIONS[0])
    pixels, ids = talking.pixels(image), list(prompt.ids)
    for _ in range(6):
        with torch.no_grad():
            logits = talking.module(**talking.generation_inputs(torch.tensor([ids]), pixels)).logits[0, -1]
        ids.append(int(logits.argmax()))
    expected = talking.processor.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True).strip()
    talking.module.generation_config.repetition_penalty = 6.0
    try:
        assert talking.generate(QUESTIONS[:1], image, 6) == [expected]
        inputs = talking.generation_inputs(torch.tensor([prompt.ids]), pixels)
        penalised = talking.module.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
    finally:
        talking.module.generation_config.repetition_penalty = None
    assert penalised != ids


def test_the_settings_come_back_after_an_error(talking):
    before = talking.module.generation_config
    stopping = greedy(talking.module)
    stopping.__enter__()
    assert talking.module.generation_config is not before
    assert not stopping.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert talking.module.generation_config is before


def test_the_longest_option_of_the_data_set_fits(talking, table, tmp_path, shapes):
    assert answer_tokens(talking, shapes) == 8
    long = len(talking.processor.tokenizer(table[3]["correct_answer"], add_special_tokens=False)["input_ids"])
    assert long > 8
    assert answer_tokens(talking, table) == long + 2
    said = [answer_all(talking, table, "", tmp_path / str(batch), "long", batch) for batch in (1, 4)]
    assert said[0] == said[1]
    first = table[0]
    whole = talking.generate([first["question"]], [first["clean_image"]], long + 2)[0]
    cut = talking.generate([first["question"]], [first["clean_image"]])[0]
    assert said[0][first["sample_id"]] == whole
    assert whole.startswith(cut)
    assert whole != cut


@pytest.mark.parametrize(
    ("what", "value"), [("program_version", "0.0"), ("prompt", "{question}"), ("answer_tokens", 7), ("model_revision", "another")]
)
def test_stale_answers_are_asked_anew(blip, shapes, tmp_path, monkeypatch, what, value):
    asked = []

    def generate(vlm, rows, tokens):
        asked.extend(row["sample_id"] for row in rows)
        return {row["sample_id"]: "red" for row in rows}

    monkeypatch.setattr(answers, "generate_answers", generate)
    for _ in range(2):
        answer_all(blip, shapes, "", tmp_path, "shapes")
    assert asked == list(shapes["sample_id"])
    path = tmp_path / blip.name / "shapes" / "answers.json"
    stored = json.loads(path.read_text())
    stored["configuration"][what] = value
    path.write_text(json.dumps(stored))
    answer_all(blip, shapes, "", tmp_path, "shapes")
    assert asked == list(shapes["sample_id"]) * 2
