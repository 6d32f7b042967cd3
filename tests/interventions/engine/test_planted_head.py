"""A model in which one known head carries the answer: patching finds that head and no other."""

import numpy as np
import pytest
from PIL import Image

from interventions.engine.capture import BASE, SOURCE, Example, capture
from interventions.engine.plan import Patch, patches
from interventions.engine.sweep import sweep
from interventions.models.checks import check_sites
from interventions.results.roles import Cell
from tests.support.planted import HEAD, LAYER, planted_blip

QUESTION = "Is the circle red or blue?"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    vlm = planted_blip(tmp_path_factory.mktemp("planted"))
    pixels = vlm.pixels([Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")])
    prompt = vlm.prompt(QUESTION)
    answers = (vlm.answer_ids(QUESTION, "red")[0], vlm.answer_ids(QUESTION, "blue")[0])
    return vlm, capture(vlm, [Example(vlm.ids([prompt, prompt]), pixels, answers)], vlm.architecture.components), prompt


def logit_difference(measured):
    return (measured[..., 0] - measured[..., 1]).numpy()


def test_the_model_answers_from_the_image_and_passes_the_causal_checks(planted):
    vlm, captured, _ = planted
    check_sites(vlm)
    assert logit_difference(captured.measured[0])[SOURCE] > 0.1
    assert logit_difference(captured.measured[0])[BASE] < -0.1


@pytest.mark.parametrize("positions", ["correct", "all"])
def test_patching_finds_the_planted_head_and_no_other(planted, positions):
    vlm, captured, prompt = planted
    where = (
        prompt.positions((QUESTION.index("red"), QUESTION.index("red") + 3)) if positions == "correct" else tuple(range(len(prompt.ids)))
    )
    assert [prompt.words[i] for i in where][:1] == (["red"] if positions == "correct" else ["[CLS]"])
    for component in vlm.architecture.attention:
        every = patches(component, vlm.n_layers, vlm.n_heads, [Cell("", "", where)])
        effect = logit_difference(sweep(vlm, captured, [every])[0] - captured.measured[0, BASE]).reshape(vlm.n_layers, vlm.n_heads)
        others = effect.copy()
        if component == "cross_attention":
            assert effect[LAYER, HEAD] > 0.02
            others[LAYER, HEAD] = 0
        np.testing.assert_allclose(others, 0, atol=1e-6)


def test_the_planted_head_at_all_tokens_restores_everything(planted):
    vlm, captured, prompt = planted
    measured = sweep(vlm, captured, [[Patch("cross_attention", (LAYER,), HEAD, tuple(range(len(prompt.ids))))]])
    np.testing.assert_allclose(measured[0][0], captured.measured[0, SOURCE], atol=1e-5)
