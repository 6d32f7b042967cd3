"""Prompts, spans and token roles."""

import pytest

from interventions.results.roles import ROLES, every_token, roles, tokens_of_roles


def named(vlm, pair):
    prompt = vlm.prompt(pair.clean_question)
    return prompt, roles(prompt, pair, vlm.architecture.causal)


def test_prompts_are_the_ids_that_the_processor_makes(vlm, make_pair):
    pair = make_pair(vlm, "sip")
    prompt = vlm.prompt(pair.clean_question)
    made = vlm.processor(images=pair.clean_image, text=prompt.text, return_tensors="pt")
    assert list(prompt.ids) == made["input_ids"][0].tolist()
    for span, word in zip(prompt.spans, prompt.words, strict=True):
        assert span is None or pair.clean_question[slice(*span)] == word


def test_roles_of_a_question(vlm, make_pair):
    for number in range(16):
        pair = make_pair(vlm, "sip", number)
        prompt, found = named(vlm, pair)
        assert set(found) <= ROLES.keys()
        for role in ("correct", "incorrect", "or", "noun", "?"):
            assert found.count(role) == 1, (role, pair.clean_question)
        word = {role: prompt.words[found.index(role)] for role in ("correct", "incorrect", "or", "noun")}
        assert word == {
            "correct": pair.sample["correct_answer"], "incorrect": pair.sample["incorrect_answer"], "or": "or", "noun": pair.sample["noun"],
        }  # fmt: skip


def test_roles_of_an_encoder(blip, make_pair):
    _, found = named(blip, make_pair(blip, "sip"))
    assert (found[0], found[-1]) == ("[CLS]", "[SEP]")


def test_roles_of_a_causal_decoder(llava, make_pair):
    prompt, found = named(llava, make_pair(llava, "sip"))
    assert (found[-1], prompt.words[-1]) == ("last", ":")
    assert (found[-2], prompt.words[-2]) == ("assistant", "ASSISTANT")
    assert found[0] == "[BOS]"
    assert found.count("image") == 64


def test_several_pieces_of_one_option_have_its_role(blip):
    from corruptions.base import Pair
    from data_prep.tables.sample import option_spans

    question = "Is it fearful or red?"
    row = {"noun": "", "question": question, "clean_image": None}
    options = option_spans(question, "fearful", "red")
    pair = Pair(row, "clean_image", question, options, options)
    prompt = blip.prompt(question)
    found = roles(prompt, pair, causal=False)
    (cell,) = tokens_of_roles(prompt, found, ["correct"])
    assert [prompt.words[i] for i in cell.positions] == list("fearful")


def test_every_token_covers_each_position_once(vlm, make_pair):
    prompt, found = named(vlm, make_pair(vlm, "sip"))
    cells = every_token(prompt, found)
    assert [i for cell in cells for i in cell.positions] == list(range(len(prompt.ids)))
    assert [cell.role for cell in cells].count("image") <= 1


def test_an_absent_role_is_named_with_those_there_are(blip, make_pair):
    prompt, found = named(blip, make_pair(blip, "sip"))
    with pytest.raises(ValueError, match=r"no token has the role 'image'.*correct"):
        tokens_of_roles(prompt, found, ["image"])
