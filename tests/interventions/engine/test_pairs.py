"""A pair is prepared once; what is sent to other processes is small, and base and source follow from one word."""

import pickle
from dataclasses import replace

import pytest
import torch

from interventions.engine.capture import BASE, SOURCE, example
from interventions.engine.corrupt_embeddings import Noise
from interventions.engine.pairs import PairError, prepare_pair
from interventions.models.vlm import Scored
from interventions.results.roles import roles


def test_a_prepared_pair_holds_what_methods_ask_for(vlm, make_pair):
    pair = make_pair(vlm, "str")
    prepared = prepare_pair(vlm, pair, Scored(5, 6))
    assert (prepared.clean_prompt, prepared.corrupt_prompt) == (vlm.prompt(pair.clean_question), vlm.prompt(pair.corrupt_question))
    assert list(prepared.roles) == roles(prepared.clean_prompt, pair, vlm.architecture.causal)
    (correct,) = prepared.cells(("correct",))
    assert correct.positions == tuple(i for i, role in enumerate(prepared.roles) if role == "correct")
    every = prepared.cells(("every",))
    assert sorted(position for cell in every for position in cell.positions) == list(range(len(prepared.roles)))
    with pytest.raises(ValueError, match="no token has the role 'nothing'"):
        prepared.cells(("nothing",))


def test_a_pair_is_sent_without_its_images(vlm, make_pair):
    prepared = prepare_pair(vlm, make_pair(vlm, "sip"), Scored(5, 6))
    sent = pickle.dumps(prepared.without_sample())
    assert len(sent) < 5000
    assert pickle.loads(sent).with_sample(prepared.sample) == prepared


def test_prompts_of_unequal_length_are_refused(vlm, make_pair):
    pair = replace(make_pair(vlm, "sip"), corrupt_question="Is it?")
    with pytest.raises(PairError, match="the corrupt prompt has"):
        prepare_pair(vlm, pair, Scored(5, 6))


@pytest.mark.parametrize("base", ["clean", "corrupt"])
def test_the_base_says_which_run_is_which(vlm, make_pair, base):
    pair = make_pair(vlm, "sip")
    noise = Noise("text", torch.zeros(1, 1), torch.ones(1))
    ours = example(vlm, prepare_pair(vlm, pair, Scored(5, 6)), noise, base)
    clean, corrupt = (SOURCE, BASE) if base == "corrupt" else (BASE, SOURCE)
    assert (ours.clean_run, ours.corrupt_run) == (clean, corrupt)
    assert (ours.noise_of(clean), ours.noise_of(corrupt)) == (None, noise)
    for run, image in ((clean, pair.clean_image), (corrupt, pair.corrupt_image)):
        for name, values in vlm.pixels([image]).items():
            assert torch.equal(ours.pixels[name][run], values[0])


def test_the_text_of_both_runs_follows_the_base(vlm, make_pair):
    pair = make_pair(vlm, "str")
    prepared = prepare_pair(vlm, pair, Scored(5, 6))
    first, second = (example(vlm, prepared, base=base) for base in ("corrupt", "clean"))
    assert first.ids[SOURCE].tolist() == second.ids[BASE].tolist() == list(prepared.clean_prompt.ids)
    assert first.ids[BASE].tolist() == second.ids[SOURCE].tolist() == list(prepared.corrupt_prompt.ids)
    assert not torch.equal(first.ids[SOURCE], first.ids[BASE])
