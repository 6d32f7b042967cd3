"""Each corruption against its definition."""

import json
import math
import re
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from corruptions.base import LeftOut, Prompt, named
from corruptions.gaussian_noise import NoiseOptions
from corruptions.options import CorruptionOptions
from corruptions.semantic_image_pairs import SemanticImagePairs
from corruptions.symmetric_token_replacement import SymmetricTokenReplacement, mismatch, replace_options
from data_prep.tables.sample import option_spans


def sample(question="Is the circle red or blue?", correct="red", incorrect="blue", **more):
    grey, white = Image.new("RGB", (8, 8), "grey"), Image.new("RGB", (8, 8), "white")
    return {
        "sample_id": "s", "category": "colour", "question": question, "correct_answer": correct, "incorrect_answer": incorrect,
        "corrupt_question": "", "noun": "circle", "clean_image": grey, "corrupt_image": white, "clean_attributes": "",
        "corrupt_attributes": "", "changed_attribute": "colour", "correct_first": True, **more,
    }  # fmt: skip


# ---------------------------------------------------------------- semantic image pairs


def test_sip_changes_the_image_alone(vlm, shapes):
    for row in shapes:
        pair = SemanticImagePairs().corrupt(row, vlm.prompt)
        assert pair.corrupt_question == pair.clean_question
        assert np.any(np.asarray(pair.clean_image) != np.asarray(pair.corrupt_image))
        clean, corrupt = json.loads(row["clean_attributes"]), json.loads(row["corrupt_attributes"])
        changed = [name for a, b in zip(clean, corrupt, strict=True) for name in a if a[name] != b[name]]
        assert changed == [row["category"]]


@pytest.mark.parametrize(
    ("clean", "corrupt", "reason"),
    [
        ([{"colour": "red", "size": "small"}], [{"colour": "blue", "size": "large"}], "size of object 0"),
        ([{"colour": "red"}, {"colour": "red"}], [{"colour": "blue"}, {"colour": "blue"}], "colour of object 1"),
        ([{"colour": "red"}], [{"colour": "red"}], "differs in nothing"),
        ([{"size": "small"}], [{"size": "large"}], "must differ in the colour .* differs in size of object 0"),
        ([{"colour": "red"}], [], "0 objects"),
        ([{"colour": "red", "size": "small"}], [{"colour": "red", "size": "large"}], "it differs in size of object 0$"),
        ([{"colour": "red"}, {"size": "small"}], [{"colour": "red"}, {"size": "large"}], "it differs in size of object 1$"),
        ([{"colour": "red"}], [{"colour": "red", "texture": "striped"}], "it differs in texture of object 0$"),
        ([{"colour": "red", "texture": "striped"}], [{"colour": "blue"}], "colour of object 0, texture of object 0"),
    ],
)
def test_sip_leaves_out_a_partner_that_differs_in_more_or_in_something_else(clean, corrupt, reason):
    row = sample(clean_attributes=json.dumps(clean), corrupt_attributes=json.dumps(corrupt))
    with pytest.raises(LeftOut, match=reason):
        SemanticImagePairs().corrupt(row, None)


def test_sip_takes_a_partner_that_differs_in_the_asked_attribute_of_one_object():
    clean, corrupt = ([{"colour": "green", "size": "small"}, {"colour": colour, "size": "small"}] for colour in ("red", "blue"))
    row = sample(clean_attributes=json.dumps(clean), corrupt_attributes=json.dumps(corrupt))
    assert SemanticImagePairs().corrupt(row, None).corrupt_image is row["corrupt_image"]


def test_sip_leaves_out_an_identical_partner():
    row = sample()
    row["corrupt_image"] = row["clean_image"].copy()
    with pytest.raises(LeftOut, match="identical"):
        SemanticImagePairs().corrupt(row, None)


# ---------------------------------------------------------------- symmetric token replacement


def test_str_meets_its_definition_for_every_sample(vlm, shapes):
    maker = SymmetricTokenReplacement(shapes, seed=0)
    options = {}
    for row in shapes:
        options.setdefault(row["category"], set()).update((row["correct_answer"], row["incorrect_answer"]))
    for row in shapes:
        pair = maker.corrupt(row, vlm.prompt)
        new = [pair.corrupt_question[start:end] for start, end in pair.corrupt_options]
        assert len({*new, row["correct_answer"], row["incorrect_answer"]}) == 4  # differ from each other and from both
        assert set(new) <= options[row["category"]]  # of the same type
        assert pair.corrupt_image == pair.clean_image
        clean, corrupt = vlm.prompt(pair.clean_question), vlm.prompt(pair.corrupt_question)
        assert len(clean.ids) == len(corrupt.ids)
        changed = {i for i, (a, b) in enumerate(zip(clean.ids, corrupt.ids, strict=True)) if a != b}
        places = [set(clean.positions(span)) for span in pair.clean_options]
        assert changed == places[0] | places[1]
        assert [set(corrupt.positions(span)) for span in pair.corrupt_options] == places


def test_str_depends_on_the_seed_and_the_sample_alone(vlm, shapes):
    def questions(seed, rows):
        maker = SymmetricTokenReplacement(shapes, seed)
        return {row["sample_id"]: maker.corrupt(row, vlm.prompt).corrupt_question for row in rows}

    rows = list(shapes)
    assert questions(0, rows) == questions(0, rows[::-1])
    assert questions(0, rows) != questions(1, rows)


def test_str_keeps_token_lengths_of_longer_options(blip):
    """ "fearful" and "disgusted" take several pieces; only options of equal length may stand in their places."""
    pool = [("fearful", "angry"), ("worried", "upset"), ("red", "blue"), ("sad", "mad")]
    rows = [sample(f"Is it {a} or {b}?", a, b, category="feeling", sample_id=str(i)) for i, (a, b) in enumerate(pool)]
    length = {word: len(blip.prompt(word).ids) for pair in pool for word in pair}
    pair = SymmetricTokenReplacement(rows, seed=0).corrupt(rows[0], blip.prompt)
    new = [pair.corrupt_question[start:end] for start, end in pair.corrupt_options]
    assert set(new) == {"worried", "upset"}
    assert [length[word] for word in new] == [length["fearful"], length["angry"]]


def test_str_leaves_out_a_sample_with_no_fitting_options(blip):
    rows = [sample(sample_id="a"), sample("Is it a or bc?", "a", "bc", sample_id="b")]
    with pytest.raises(LeftOut, match="no two other options of 'colour' take 1 and 1 tokens"):
        SymmetricTokenReplacement(rows, seed=0).corrupt(rows[0], blip.prompt)


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("Is the circle green or pink?", None),
        ("Is the square green or pink?", "more than the options"),
        ("Is the circle green or green?", "not two others"),
        ("Is the circle green or red?", "not two others"),
        ("Is the circle green or happy?", "tokens"),
    ],
)
def test_a_stated_corrupt_question_must_meet_the_definition(blip, stated, reason):
    row = sample(corrupt_question=stated)
    maker = SymmetricTokenReplacement([row], seed=0)
    if reason is None:
        pair = maker.corrupt(row, blip.prompt)
        assert [stated[start:end] for start, end in pair.corrupt_options] == ["green", "pink"]
    else:
        with pytest.raises(LeftOut, match=reason):
            maker.corrupt(row, blip.prompt)


def in_pieces(question, size=4, last=""):
    """A tokenizer that cuts words into pieces of so many letters; the token of the last piece depends on a word before it, where that is
    given."""
    spans = [
        (start, min(start + size, match.end()))
        for match in re.finditer(r"\w+|[^\w\s]", question)
        for start in range(match.start(), match.end(), size)
    ]
    words = tuple(question[start:end] for start, end in spans)
    ids = [zlib.crc32(word.encode()) for word in words]
    ids[-1] += len(last) * (last in question)
    return Prompt(question, tuple(ids), tuple(spans), words, ("question",) * len(words))


@pytest.mark.parametrize(
    ("new", "tokenize", "reason"),
    [
        (("pink", "tan"), in_pieces, None),
        (("pink", "orange"), in_pieces, "has 8 tokens, the clean one 7"),
        (("pink", "tan"), partial(in_pieces, last="tan"), "differs outside the options, at token 6"),
        (("pink", "tan"), partial(in_pieces, last="red"), "differs outside the options, at token 6"),
    ],
)
def test_str_changes_no_token_outside_the_options(new, tokenize, reason):
    """Whether the corrupt question is drawn or stated: a token may depend on the words around it."""
    drawn = sample("Is the hat red or blue?")
    stated = sample("Is the hat red or blue?", corrupt_question=f"Is the hat {new[0]} or {new[1]}?", sample_id="t")
    pool = sample(f"Is the hat {new[0]} or {new[1]}?", *new, sample_id="u")
    maker = SymmetricTokenReplacement([drawn, stated, pool], seed=0)
    if reason is None:
        assert maker.corrupt(stated, tokenize).corrupt_question == stated["corrupt_question"]
        assert maker.corrupt(drawn, tokenize).corrupt_question in ("Is the hat pink or tan?", "Is the hat tan or pink?")
        return
    with pytest.raises(LeftOut, match=f"the given corrupt question {reason}"):
        maker.corrupt(stated, tokenize)
    with pytest.raises(LeftOut, match="no two other options of 'colour' take 1 and 1 tokens"):
        maker.corrupt(drawn, tokenize)


def test_str_puts_options_of_as_many_tokens_in_each_place():
    """As many in all would not do: the second option would stand elsewhere."""
    row = sample("Is the hat purple or red?", "purple", "red", corrupt_question="Is the hat tan or orange?")
    with pytest.raises(LeftOut, match="the given corrupt question has an option in other token positions"):
        SymmetricTokenReplacement([row], seed=0).corrupt(row, in_pieces)
    pool = [sample("Is the hat purple or red?", "purple", "red"), sample("Is it tan or orange?", "tan", "orange", sample_id="u")]
    pair = SymmetricTokenReplacement(pool, seed=0).corrupt(pool[0], in_pieces)
    assert pair.corrupt_question == "Is the hat orange or tan?"


def test_replace_options_in_both_orders():
    question = "Is it blue or red?"
    spans = option_spans(question, "red", "blue")
    new, places = replace_options(question, spans, ("orange", "tan"))
    assert new == "Is it tan or orange?"
    assert [new[start:end] for start, end in places] == ["orange", "tan"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_draws": 0}, "--noise-draws must be at least 1, not 0"),
        *(({"noise_multiple": number}, "--noise-multiple must be a finite number above 0") for number in (0.0, -1.0, math.nan, math.inf)),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused(options, message):
    for made in (CorruptionOptions, NoiseOptions):
        with pytest.raises(ValueError, match=message):
            made(**options)


def test_unknown_corruption_names_those_there_are():
    with pytest.raises(ValueError, match="unknown corruption 'noise'; choose from sip, str"):
        named("noise")


@pytest.mark.parametrize(
    ("ids", "question_spans", "reason"),
    [
        ((1, 7, 3, 8, 5), ((3, 6), (10, 14)), None),
        ((9, 7, 3, 8, 5), ((3, 6), (10, 14)), "differs outside the options, at token 0"),
        ((1, 7, 4, 8, 5), ((3, 6), (10, 14)), "differs outside the options, at token 2"),
        ((1, 7, 3, 8, 9), ((3, 6), (10, 14)), "differs outside the options, at token 4"),
        ((1, 7, 3, 8), ((3, 6), (10, 14)), "has 4 tokens, the clean one 5"),
        ((1, 7, 3, 8, 5), ((0, 2), (10, 14)), "has an option in other token positions"),
    ],
)
def test_two_prompts_are_symmetric_where_they_differ_in_the_options_alone(ids, question_spans, reason):
    """Is red or blue? with a token for each word: tokens 1 and 3 are the options."""
    words = (("Is", (0, 2)), ("red", (3, 6)), ("or", (7, 9)), ("blue", (10, 14)), ("?", (14, 15)))

    def prompt(ids):
        texts, spans = zip(*words[: len(ids)], strict=True)
        return Prompt("", ids, spans, texts, ("question",) * len(ids))

    clean = ((3, 6), (10, 14))
    assert mismatch(prompt((1, 2, 3, 4, 5)), clean, prompt(ids), question_spans) == reason
