"""Constraint replacement against its definition."""

import json
import re
import zlib

import numpy as np
import pytest

from corruptions.base import LeftOut, Prompt
from corruptions.constraint_replacement import ConstraintOptions, ConstraintReplacement, constraint_span
from data_prep.scenes.rendering import SHAPES
from data_prep.tables.sample import option_spans
from interventions.results.roles import roles


def sample(question, correct="red", incorrect="blue", noun="circle", **more):
    return {
        "sample_id": question, "category": "colour", "question": question, "correct_answer": correct, "incorrect_answer": incorrect,
        "noun": noun, "clean_attributes": "", **more,
    }  # fmt: skip


def by_word(question):
    """A tokenizer that makes one token of each word and mark."""
    found = list(re.finditer(r"\w+|[^\w\s]", question))
    ids, words = (tuple(make(match[0]) for match in found) for make in (hash, str))
    return Prompt(question, ids, tuple(match.span() for match in found), words, ("question",) * len(found))


def replaced(rows, tokenize, number=0, words=(), seed=0):
    """The replaced question of one of some samples."""
    return ConstraintReplacement(rows, seed, ConstraintOptions(tuple(words))).corrupt(rows[number], tokenize).corrupt_question


def test_it_meets_its_definition_for_every_sample(vlm, shapes):
    maker = ConstraintReplacement(shapes, seed=0)
    for row in shapes:
        pair = maker.corrupt(row, vlm.prompt)
        clean, corrupt = vlm.prompt(pair.clean_question), vlm.prompt(pair.corrupt_question)
        assert len(clean.ids) == len(corrupt.ids)
        changed = [i for i, (a, b) in enumerate(zip(clean.ids, corrupt.ids, strict=True)) if a != b]
        assert changed == [i for i, role in enumerate(roles(clean, pair, vlm.architecture.causal)) if role == "noun"]
        before, after = pair.clean_question.split(row["noun"], 1)
        new = pair.corrupt_question.removeprefix(before).removesuffix(after)
        assert f"{before}{new}{after}" == pair.corrupt_question
        assert new in SHAPES  # never "object", which would fit
        assert new not in [thing["shape"] for thing in json.loads(row["clean_attributes"])]
        assert new not in (row["correct_answer"], row["incorrect_answer"])
        assert [pair.corrupt_question[start:end] for start, end in pair.corrupt_options] == [row["correct_answer"], row["incorrect_answer"]]
        assert [corrupt.positions(span) for span in pair.corrupt_options] == [clean.positions(span) for span in pair.clean_options]


def test_it_depends_on_the_seed_and_the_sample_alone(blip, shapes):
    rows = list(shapes)

    def questions(seed, rows, known):
        maker = ConstraintReplacement(known, seed)
        return {row["sample_id"]: maker.corrupt(row, blip.prompt).corrupt_question for row in rows}

    assert questions(0, rows, rows) == questions(0, rows[::-1], rows[::-1])
    assert questions(0, rows, rows) != questions(1, rows, rows)
    twins = [sample("Is the circle red or blue?", sample_id=str(number)) for number in range(12)]
    drawn = [replaced([twin], by_word, words=SHAPES) for twin in twins]
    assert len(set(drawn)) > 1
    rng = np.random.default_rng([0, zlib.crc32(b"0")])  # the draw is from the words in alphabetical order
    assert drawn[0] == f"Is the {sorted(set(SHAPES) - {'circle'})[rng.permutation(5)[0]]} red or blue?"


def test_only_a_noun_of_as_many_tokens_takes_the_place(blip):
    length = {word: len(blip.prompt(word).ids) for word in ("triangle", "diamond", "zebra", "zebras")}
    assert length["zebra"] != length["triangle"] == length["diamond"]
    rows = [sample(f"Is the {noun} red or blue?", noun=noun) for noun in ("triangle", "diamond", "zebra")]
    assert {replaced(rows, blip.prompt, seed=seed) for seed in range(8)} == {"Is the diamond red or blue?"}
    with pytest.raises(LeftOut, match=f"none of the data set's nouns .* takes {length['zebra'] - 2} tokens in the place of 'zebra'"):
        replaced(rows, blip.prompt, number=2)


def test_prompts_of_another_length_are_not_taken():
    """Even where the noun itself has as many tokens."""

    def longer_after_star(question):
        return by_word(question + "!" * ("star" in question))

    rows = [sample("Is the circle red or blue?")]
    assert replaced(rows, by_word, words=["star"]) == "Is the star red or blue?"
    with pytest.raises(LeftOut, match="none of the words given takes 1 tokens in the place of 'circle'"):
        replaced(rows, longer_after_star, words=["star"])


def test_nouns_of_the_category_come_first_and_of_questions_that_begin_alike():
    rows = [sample("Is the circle red or blue?")]
    rows += [sample(f"Is the {noun} red or blue?", noun=noun, category="shape") for noun in ("star", "cross")]
    rows += [sample("Are the square red or blue?", noun="square")]
    assert {replaced(rows, by_word, seed=seed) for seed in range(12)} == {"Is the star red or blue?", "Is the cross red or blue?"}
    rows += [sample("Is the diamond red or blue?", noun="diamond")]
    assert {replaced(rows, by_word, seed=seed) for seed in range(12)} == {"Is the diamond red or blue?"}


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({}, True),
        ({"clean_attributes": '[{"shape": "circle"}, {"shape": "Star"}]'}, False),  # would be about the other object
        ({"question": "Is the circle left of the star red or blue?"}, False),
        ({"question": "Is the circle a star or a cross?", "correct_answer": "star", "incorrect_answer": "cross"}, False),
        ({"question": "Is a circle red or blue?"}, True),
        ({"question": "Is an oval red or blue?", "noun": "oval"}, False),  # "an star"
    ],
)
def test_the_new_noun_is_about_something_else_and_fits_the_sentence(more, fits):
    row = sample(**{"question": "Is the circle red or blue?", **more})
    if fits:
        assert replaced([row], by_word, words=["star"]) == re.sub("circle", "star", row["question"])
    else:
        with pytest.raises(LeftOut, match="none of the words given takes"):
            replaced([row], by_word, words=["star"])


def test_nouns_too_general_for_their_own_sample_are_not_taken():
    attributes = '[{"shape": "star"}]'
    rows = [sample("Is the circle red or blue?"), sample("Is the object red or blue?", noun="object", clean_attributes=attributes)]
    with pytest.raises(LeftOut, match="none of the data set's nouns"):
        replaced(rows, by_word)
    assert replaced(rows, by_word, number=1) == "Is the circle red or blue?"


@pytest.mark.parametrize("question", ["Is the circle red or blue?", "Is it red or blue, the circle?"])
def test_options_behind_the_noun_move_with_its_length(question):
    pair = ConstraintReplacement([], 0, ConstraintOptions(("diamond",))).corrupt(sample(question), by_word)
    assert pair.corrupt_question == question.replace("circle", "diamond")
    assert [pair.corrupt_question[start:end] for start, end in pair.corrupt_options] == ["red", "blue"]


@pytest.mark.parametrize(
    ("question", "noun", "place"),
    [
        ("Is the circle by the circle red or blue?", "circle", 21),  # the last before the options
        ("Is the circle red or blue, by the circle?", "circle", 7),
        ("Is it red or blue, the circle?", "circle", 23),
        ("Is the Circle red or blue?", "circle", 7),
        ("Is the semicircle or circle red or blue?", "circle", 21),
        ("Is the fire truck red or blue?", "fire truck", 7),
    ],
)
def test_the_constraint_is_the_noun_of_the_thing_asked_about(question, noun, place):
    row = sample(question, noun=noun)
    span = constraint_span(row, option_spans(question, "red", "blue"))
    assert span == (place, place + len(noun))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (sample("Is it red or blue?", noun=""), "does not say which noun"),
        (sample("Is it red or blue?"), "'circle' is not in the question outside of its options"),
        (sample("Is it a circle or a star?", "circle", "star"), "'circle' is not in the question outside of its options"),
    ],
)
def test_a_sample_without_a_constraint_is_left_out(row, reason):
    with pytest.raises(LeftOut, match=reason):
        ConstraintReplacement([], 0, ConstraintOptions(("square",))).corrupt(row, by_word)
