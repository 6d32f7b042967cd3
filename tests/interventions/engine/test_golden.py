"""The `reference` definition against numbers that NOTICE's own code gave on two tiny models of random weights (`tests/golden`)."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from interventions.engine.capture import BASE, SOURCE, Example, capture
from interventions.engine.plan import patches
from interventions.engine.sweep import sweep
from interventions.models.loading import load
from interventions.results.roles import Cell

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
# The reference's numbers are float32 of one processor, and another processor's float32 differs from them by as much again. Ours are
# computed in float64 for the comparison, so the tolerances are the rounding of the reference alone, and the same on every machine.
TOLERANCES = {
    "blip": {"prob_patched_correct": 1e-5, "p_diff": 1e-5, "logit_diff": 2e-4, "patching_effect": 1e-4},
    "llava": {"prob_patched_correct": 1e-7, "p_diff": 1e-7, "logit_diff": 1e-5, "patching_effect": 1e-5},
}


@pytest.fixture(scope="module", params=["blip", "llava"])
def golden(request):
    vlm = load(str(GOLDEN / "assets" / request.param), device="cpu")
    vlm.module.double()
    return vlm, dict(np.load(GOLDEN / f"{request.param}_inputs.npz"))


def pair_of(vlm, inputs, row, components):
    """The reference's own input ids (LLaVA's with the image token expanded), pixel values and answer tokens. Image corruption."""
    ids = torch.from_numpy(inputs["input_ids_clean"][row])
    ids = ids[ids >= 0]  # -1 fills up shorter prompts
    if vlm.image_token_id is not None:
        image_tokens = vlm.prompt("Is it red or blue?").ids.count(vlm.image_token_id)
        ids = torch.repeat_interleave(ids, torch.where(ids == vlm.image_token_id, image_tokens, 1))
    pixels = torch.from_numpy(np.stack([inputs[f"pixel_values_{run}"][row] for run in ("clean", "corrupt")]))
    answers = tuple(int(token) for token in inputs["answer_tokens"][row])
    return capture(vlm, [Example(torch.stack([ids, ids]), {"pixel_values": pixels[:, None]}, answers)], components)


def metrics(measured, captured):
    """The reference's four scores of each patched run."""
    correct, incorrect, normalizer = measured.double().unbind(-1)
    runs = captured.measured[0].double()
    ld = runs[:, 0] - runs[:, 1]
    probability, corrupt = torch.exp(correct - normalizer), torch.exp(runs[BASE, 0] - runs[BASE, 2])
    difference = correct - incorrect - ld[BASE]
    return torch.stack([probability, probability - corrupt, difference, difference / (ld[SOURCE] - ld[BASE])], -1).numpy()


CASES = {
    "blip_image_output": ("block", False),  # the reference calls it MLP; it is the layer's output
    "blip_image_attention_block": ("self_attention", False),
    "blip_image_crossattention_block": ("cross_attention", False),
    "blip_image_attention_block_heads": ("self_attention", True),
    "blip_image_crossattention_block_heads": ("cross_attention", True),
    "llava_fixed_image_attention_block": ("self_attention", False),
    "llava_fixed_image_mlp_block": ("mlp", False),
    "llava_fixed_image_attention_block_heads": ("self_attention", True),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_match(golden, case):
    vlm, inputs = golden
    if not case.startswith(vlm.architecture.name):
        pytest.skip("another architecture's case")
    component, heads = CASES[case]
    wanted = dict(np.load(GOLDEN / f"{case}.npz", allow_pickle=False))
    compared = 0
    for row, scores in enumerate(wanted["scores"]):
        captured = pair_of(vlm, inputs, row, (component,))
        if "merged_positions" in wanted:
            positions = [int(p) for p in wanted["merged_positions"][row]]
        else:
            positions = list(range(int(wanted["n_tokens"][row])))
        cells = [Cell("", "", (position,)) for position in positions]
        every = patches(component, vlm.n_layers, vlm.n_heads if heads else None, cells)
        found = metrics(sweep(vlm, captured, [every])[0], captured)
        found = found.reshape(vlm.n_layers, *([vlm.n_heads] if heads else []), len(cells), 4)
        found = np.moveaxis(found, -2, 0)  # token first, as there
        for number, name in enumerate(wanted["metric_names"]):
            expected = scores[: len(cells), ..., number]
            same = np.isnan(expected) & ~np.isfinite(found[..., number])  # answers that share a piece: 0 / 0
            tolerance = TOLERANCES[vlm.architecture.name][str(name)]
            close = np.abs(found[..., number] - expected) <= tolerance
            assert (same | close).all(), f"{name}, sample {row}"
            told_apart = name != "logit_diff" or np.nanstd(expected) > 10 * tolerance
            assert same.all() or told_apart, f"sample {row}: cells could be exchanged unnoticed"
            compared += int(close.sum())
    assert compared >= 384


def test_clean_and_corrupt_logits_match(golden):
    vlm, inputs = golden
    for row in range(6):
        captured = pair_of(vlm, inputs, row, ())
        for run, name in ((SOURCE, "logits_clean_image"), (BASE, "logits_corrupt_image")):
            logits = inputs[name][row]
            expected = [*logits[captured.answers[0].tolist()], np.log(np.exp(logits.astype(np.float64)).sum())]
            np.testing.assert_allclose(captured.measured[0, run], expected, atol=TOLERANCES[vlm.architecture.name]["logit_diff"])


def test_reference_scores_llava_by_the_last_piece_of_the_generated_text(golden):
    vlm, inputs = golden
    if vlm.architecture.name == "blip":
        pytest.skip("LLaVA's definition")
    with (GOLDEN / "assets" / "llava_samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [vlm.reference_answer_ids(row["generated_text"], row["correct_answer"], row["incorrect_answer"]) for row in rows]
    np.testing.assert_array_equal(found, inputs["answer_tokens"])
