"""SVO-Probes: triplets, flags and sentences in the published table's form; questions; photographs from a folder or a server."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.svo_probes import Folder, Web, choose, read_svo_probes, read_triplets
from data_prep.tables import schema as samples
from data_prep.tables.candidates import Preparation
from data_prep.tables.downloads import DEAD_LINKS, Downloads, Limits
from data_prep.tables.preparing import prepare
from data_prep.tables.sample import SampleError, option_spans
from data_prep.wording.inflection import Link, Links, ask, is_plural, options_in, participle, read_link
from data_prep.wording.rephrasing import Rephraser, fault, load_rephraser
from tests.data_prep.test_downloads import Server

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "svo_probes"
COLUMNS = ["sentence", "pos_triplet", "neg_triplet", "pos_url", "neg_url", "pos_image_id", "neg_image_id"]
COLUMNS += ["subj_neg", "verb_neg", "obj_neg"]
PARTS = ("subject", "verb", "object")


def row(sentence, positive, negative, part, ids=(0, 1), urls=None):
    """A row as in the published table."""
    urls = urls or [f"https://example.org/{image}.jpg" for image in ids]
    return [sentence, positive, negative, *urls, *map(str, ids), *(str(part == name) for name in PARTS)]


SITTING = row("A man is sitting in the grass.", "man,sit,grass", "['man,lie,grass']", "verb", (2, 3))
LYING = row("The man lies in the grass.", "man,lie,grass", "man,sit,grass", "verb", (4, 5))


def write(folder, rows, columns=COLUMNS, name="svo_probes.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / name


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return Folder(folder)


@pytest.fixture
def read(tmp_path, photographs):
    def read(rows, columns=COLUMNS, **options):
        return read_svo_probes(write(tmp_path, rows, columns), photographs, **options)

    return read


def questions(source):
    return {candidate.sample_id: candidate.make()["question"] for candidate in source.candidates}


def left_out(source):
    return {entry["sample"]: entry["reason"] for entry in source.left_out}


# The table


def test_a_row_gives_two_samples(tmp_path, read, photographs):
    source = read([LYING, SITTING])
    table = tmp_path / "t"
    prepare(Preparation(out=table), source, progress=False)
    rows = {sample["sample_id"]: sample for sample in samples.load(table)}
    assert sorted(rows) == ["row-00001-neg", "row-00001-pos", "row-00002-neg", "row-00002-pos"]
    for name, right, wrong, images in [("pos", "sitting", "lying", (2, 3)), ("neg", "lying", "sitting", (3, 2))]:
        sample = rows[f"row-00002-{name}"]
        named = (right, wrong) if sample["correct_first"] else (wrong, right)
        assert sample["question"] == "Is the man {} or {} in the grass?".format(*named)
        assert (sample["correct_answer"], sample["incorrect_answer"], sample["noun"]) == (right, wrong, "man")
        assert (sample["category"], sample["changed_attribute"]) == ("verb", "verb")
        bases = {"sitting": "sit", "lying": "lie"}
        assert json.loads(sample["clean_attributes"]) == [{"subject": "man", "verb": bases[right], "object": "grass"}]
        assert json.loads(sample["corrupt_attributes"]) == [{"subject": "man", "verb": bases[wrong], "object": "grass"}]
        expected = [Image.open(photographs.folder / f"{image}.jpg").tobytes() for image in images]
        assert [sample["clean_image"].tobytes(), sample["corrupt_image"].tobytes()] == expected
    assert samples.provenance(table)["licence"].startswith("CC BY 4.0")


def test_options_stand_in_both_orders_and_depend_on_seed_and_id_alone(read):
    rows = [row("A man is sitting in the grass.", "man,sit,grass", "man,lie,grass", "verb", (i, i + 1)) for i in range(0, 28, 2)]
    asked = questions(read([LYING, *rows]))
    first = Counter(question.split()[3] for question in asked.values())
    assert min(first["sitting"], first["lying"]) >= 8
    assert questions(read([LYING, *rows[:3], *rows[5:]])).items() & asked.items()
    assert questions(read([LYING, *rows], seed=1)) != asked


def test_columns_are_found_by_name(read):
    straight = read([LYING, SITTING])
    turned = read([LYING[::-1], SITTING[::-1]], [" Index", *COLUMNS[::-1]][1:])
    assert questions(turned) == questions(straight)
    extra = read([["7", *LYING], ["8", *SITTING]], ["index", *COLUMNS])
    assert questions(extra) == questions(straight)
    marked = read([LYING, SITTING], ["\ufeffsentence", *COLUMNS[1:]])
    assert questions(marked) == questions(straight)


def test_ids_and_sentences_are_optional(tmp_path, read):
    columns = [name for name in COLUMNS if name not in ("sentence", "pos_image_id", "neg_image_id")]
    rows = [[cell for cell, name in zip(SITTING, COLUMNS, strict=True) if name in columns]]
    assert "no sentence of the table shows" in left_out(read(rows, columns))["row-00001-pos"]
    prompts = write(tmp_path, [["1", "Is he sitting or lying?"]], ["row", "question"], "prompts.csv")
    assert len(read(rows, columns, prompts=prompts).candidates) == 2


BAD = {
    "of subj_neg, verb_neg, obj_neg exactly one must be True; here it is none": row("", "man,sit,grass", "man,lie,grass", "no"),
    "here it is subj_neg and verb_neg": [*SITTING[:7], "True", "True", "False"],
    "verb_neg is '', not True or False": [*SITTING[:7], "False", "", "False"],
    "names a 'person'": row("A person sits in the grass.", "person,sit,grass", "person,lie,grass", "verb"),
    "'man,sit,grass' and 'woman,lie,grass' differ in subject and verb, not in the verb alone": row(
        "", "man,sit,grass", "woman,lie,grass", "verb"
    ),
    "differ in object, not in the verb alone": row("", "man,sit,grass", "man,sit,bench", "verb"),
    "differ in nothing": row("", "man,sit,grass", "man,sit,grass", "verb"),
    "\"['[]']\" is not a triplet": row("", "['[]']", "man,lie,grass", "verb"),
    "'[]' is not a triplet": row("", "man,sit,grass", "[]", "verb"),
    "'man,sit' is not a triplet": row("", "man,sit", "man,lie,grass", "verb"),
    "'man,sit,grass,water' is not a triplet": row("", "man,sit,grass,water", "man,lie,grass", "verb"),
    "'man,,grass' is not a triplet": row("", "man,,grass", "man,lie,grass", "verb"),
    "a triplet is empty": row("", "nan", "man,lie,grass", "verb"),
    "are not a list of texts": row("", "[__import__('os').abort()]", "man,lie,grass", "verb"),
    "pos_url or neg_url is empty": row("", "man,sit,grass", "man,lie,grass", "verb", urls=["NaN", "https://example.org/1.jpg"]),
    "pos_url and neg_url are the same": row("", "man,sit,grass", "man,lie,grass", "verb", urls=["https://example.org/1.jpg"] * 2),
    "says none of the positive triplets 'man,sit,grass', 'boy,sit,grass'": row(
        "Girls sit.", "['man,sit,grass', 'boy,sit,grass']", "man,lie,grass", "verb"
    ),
    "'man,sit,grass' or 'boy,sit,grass' is true of both": row(
        "A man sits in the grass.", "['man,sit,grass', 'boy,sit,grass']", "boy,sit,grass", "subject"
    ),
    "'man,sit,grass' or 'man,lie,grass' is true of both": row("", "man,sit,grass", "['man,lie,grass', 'man,sit,grass']", "verb"),
    "9 cells for 10 columns": SITTING[:9],
    "11 cells for 10 columns": [*SITTING, "x"],
}
BY_DESIGN = ("here it is", "'person'", "differ in", "none of the positive", "true of both")


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_left_out_with_its_reason_or_stops(tmp_path, read, reason):
    source = read([LYING, BAD[reason], SITTING])
    assert {candidate.sample_id[:9] for candidate in source.candidates} == {"row-00001", "row-00003"}
    assert list(left_out(source)) == ["row-00002"]
    assert left_out(source)["row-00002"].startswith("svo_probes.csv, line 3: ")
    assert reason in left_out(source)["row-00002"]
    options = Preparation(out=tmp_path / "t", strict=True)
    if any(words in reason for words in BY_DESIGN):
        assert prepare(options, source, progress=False)["samples"] == 4
    else:
        with pytest.raises(SampleError, match=r"row-00002: svo_probes\.csv, line 3"):
            prepare(options, source, progress=False)


def test_a_person_is_a_word_and_not_a_part_of_one(read):
    source = read([row("A salesperson lies in the grass.", "salesperson,lie,grass", "man,lie,grass", "subject")])
    assert not left_out(source)


def test_repeated_and_swapped_rows_are_left_out_once(read):
    swapped = row("The man lies in the grass.", "man,lie,grass", "man,sit,grass", "verb", (3, 2))
    source = read([SITTING, SITTING, swapped])
    assert sorted(questions(source)) == ["row-00001-neg", "row-00001-pos"]
    assert {name: reason.split("as ")[1] for name, reason in left_out(source).items()} == {
        "row-00002-pos": "row-00001-pos",
        "row-00002-neg": "row-00001-neg",
        "row-00003-pos": "row-00001-neg",
        "row-00003-neg": "row-00001-pos",
    }


@pytest.mark.parametrize(
    ("cell", "triplets"),
    [
        ("man,sit,grass", [("man", "sit", "grass")]),
        ("['man,sit,grass']", [("man", "sit", "grass")]),
        ('["man, Sit,grass", "[]", "boy,sit"]', [("man", "sit", "grass")]),
        ("['t-shirt,lie,ice cream', 'a,b,c']", [("t-shirt", "lie", "ice cream"), ("a", "b", "c")]),
    ],
)
def test_forms_of_triplets(cell, triplets):
    assert read_triplets(cell) == triplets


def test_of_several_triplets_those_that_fit():
    lying, girl = ("woman", "lie", "couch"), ("girl", "lie", "couch")
    assert choose("verb", [girl, lying], [("woman", "sit", "couch")], "A woman lies on a couch.") == (lying, ("woman", "sit", "couch"))
    hiking = [("man", "walk", "top"), ("man", "hike", "snow"), ("man", "hike", "mountain")]
    assert choose("object", [("man", "hike", "trail")], hiking, "Men hike on a trail.") == (("man", "hike", "trail"), hiking[1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"no such file; expected:\n  svo_probes\.csv with the columns pos_triplet"),
        (b"", r"the file is empty"),
        (b"sentence,pos_triplet\nA,b\n", r"no column neg_triplet, pos_url"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (",".join(COLUMNS).encode() + b'\n"never closed,a\n', "line 2: not a readable table"),
        ("\u00e9".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_stops(tmp_path, photographs, content, says):
    if content is not None:
        (tmp_path / "svo_probes.csv").write_bytes(content)
    with pytest.raises(SampleError, match=says):
        read_svo_probes(tmp_path / "svo_probes.csv", photographs)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared tables are not here")
def test_every_documented_oddity(photographs):
    source = read_svo_probes(SHARED / "svo_probes.SYNTHETIC.csv", photographs)
    used = Counter(candidate.sample_id[:9] for candidate in source.candidates)
    assert used == {f"row-{number:05d}": 2 for number in (1, 2, 3, 5, 7, 13, 14)}
    reasons = {6: "person", 8: "'[]'", 9: "'[]'", 10: "'cat,sit'", 11: "'boat,float,lake,water'", 16: "subj_neg and verb_neg", 17: "none"}
    for number, words in reasons.items():
        assert words in left_out(source)[f"row-{number:05d}"]
    for number, words in {4: "row-00003", 12: "no sentence", 15: "row-00002"}.items():
        assert words in left_out(source)[f"row-{number:05d}-pos"]
        assert words in left_out(source)[f"row-{number:05d}-neg"]
    orders = {"Is the man or the woman walking on the street?", "Is the woman or the man walking on the street?"}
    assert questions(source)["row-00014-pos"] in orders


# Questions


@pytest.mark.parametrize(
    ("sentence", "verb", "thing", "link"),
    [
        ("A man sits by a lake.", "sit", "lake", Link("by", True)),
        ("kid sitting on beach", "sit", "beach", Link("on", False)),
        ("A man lies in bed.", "lie", "bed", Link("in", False)),
        ("The boy LAY  on the Beds", "lie", "bed", Link("on", True)),
        ('A man is walking, slowly, on the "street".', "walk", "street", Link("on", True)),
        ("A man stands at his old wooden desk.", "stand", "desk", Link("at", True)),
        ("Children cross the street.", "cross", "street", Link("", True)),
        ("A man plays football.", "play", "football", Link("", False)),
        ("The girl walks her mother's dog.", "walk", "dog", Link("", True)),
        ("A lady sits in the sand on the beach.", "sit", "beach", Link("on", True)),
        ("A woman stands with her child next to the window.", "stand", "window", Link("next to", True)),
        ("A cat sits on the edge of a roof.", "sit", "roof", Link("on the edge of", True)),
        ("The dog is lying down on a bed.", "lie", "bed", Link("down on", True)),
        ("A man sits while a girl sits on the bench.", "sit", "bench", Link("on", True)),
        ("The man did a wall sit.", "sit", "wall", None),
        ("woman, ball, outside", "hold", "ball", None),
        ("He throws a ball to the dog.", "throw", "dog", None),
        ("A woman gives the boy a ball.", "give", "ball", None),
        ("A man stands on stage playing loud music.", "stand", "music", None),
        ("A man sits and reads on a bench.", "sit", "bench", None),
        ("She holds a bunch of flowers.", "hold", "flower", None),
        ("", "sit", "bench", None),
    ],
)
def test_what_a_sentence_has_between_verb_and_object(sentence, verb, thing, link):
    assert read_link(sentence, verb, thing) == link


TOLD = [
    ("A man walks on the street.", "man,walk,street"),
    ("Children cross the street.", "child,cross,street"),
    ("A man runs across a street.", "man,run,street"),
    ("A dog runs on the sand.", "dog,run,sand"),
    ("A dog jumps over a street.", "dog,jump,street"),
    ("Dogs walk on streets.", "dog,walk,street"),
    ("A cat jumps in the chair.", "cat,jump,chair"),
    ("A boy plays in the street.", "boy,play,street"),
    ("A woman sits on a chair.", "woman,sit,chair"),
    ("kid sits on bed", "kid,sit,bed"),
    ("A dog lies in bed.", "dog,lie,bed"),
    ("A boy plays football.", "boy,play,football"),
    ("The boy kicks the football.", "boy,kick,football"),
    ("A boy plays the guitar.", "boy,play,guitar"),
    ("She hugs him.", "she,hug,him"),
]


def asked(part, shown, other, sentence="", turned=False):
    links = Links((text, tuple(triplet.split(","))) for text, triplet in TOLD)
    return ask(part, tuple(shown.split(",")), tuple(other.split(",")), links, sentence, turned=turned)


QUESTIONS = """\
subject  girl,sit,chair     dog,sit,chair      Is the girl or the dog sitting on the chair?
subject  dog,sit,chair      girl,sit,chair     Is the dog or the girl sitting on the chair?
subject  people,run,street  man,run,street     Are the people or the man running across the street?
subject  man,run,street     people,run,street  Is the man or the people running across the street?
subject  man,kick,bed       boy,kick,bed       Is the man or the boy kicking the bed?
subject  man,sit,street     boy,sit,street     Is the man or the boy sitting on the street?
subject  man,sit,moon       boy,sit,moon       Is the man or the boy sitting on the moon?
subject  she,hug,him        men,hug,him        Is she or the men hugging him?
verb     man,walk,street    man,run,street     Is the man walking or running on the street?
verb     man,run,street     man,walk,street    Is the man running or walking on the street?
verb     man,run,street     man,jump,street    Is the man running across or jumping over the street?
verb     man,walk,street    man,cross,street   Is the man walking on or crossing the street?
verb     man,walk,street    man,kick,street    Is the man walking on or kicking the street?
verb     man,cross,street   man,walk,street    Is the man crossing or walking on the street?
verb     man,jump,sand      man,run,sand       Is the man jumping or running on the sand?
verb     man,sit,street     man,jump,street    Is the man sitting on or jumping over the street?
verb     man,sit,street     man,lie,street     Is the man sitting or lying on the street?
verb     boy,play,football  boy,kick,football  Is the boy playing or kicking football?
object   boy,play,football  boy,play,guitar    Is the boy playing football or the guitar?
object   boy,play,guitar    boy,play,street    Is the boy playing the guitar or in the street?
object   dog,lie,bed        dog,lie,sand       Is the dog lying in bed or on the sand?
object   dog,lie,bed        dog,lie,chair      Is the dog lying in bed or the chair?
object   woman,sit,bed      woman,sit,chair    Is the woman sitting on the bed or the chair?"""


@pytest.mark.parametrize("case", QUESTIONS.splitlines())
def test_questions(case):
    part, shown, other, text = case.split(maxsplit=3)
    question = asked(part, shown, other)
    assert question.text == text
    words = iter(text.rstrip("?").split())
    assert all(word in words for word in question.words)  # in this order
    first, second = option_spans(text, *question.options)
    assert first < second


def test_the_other_option_first_in_the_sentences_words():
    sentence = "A man runs down the street."
    straight = asked("verb", "man,run,street", "man,jump,street", sentence)
    turned = asked("verb", "man,run,street", "man,jump,street", sentence, turned=True)
    assert straight.text == "Is the man running down or jumping over the street?"
    assert turned.text == "Is the man jumping over or running down the street?"
    assert straight.options == turned.options == ("running", "jumping")
    shared = asked("object", "woman,sit,bed", "woman,sit,chair", "A woman sits in a bed.")
    assert shared.text == "Is the woman sitting in bed or the chair?"
    assert asked("subject", "men,run,street", "girl,run,street", turned=True).text.startswith("Is the girl or the men")


def test_the_noun_is_what_the_question_does_not_offer():
    assert asked("subject", "girl,sit,chair", "dog,sit,chair").noun == "chair"
    assert asked("verb", "girl,sit,bed", "girl,lie,bed").noun == asked("object", "girl,sit,bed", "girl,sit,chair").noun == "girl"


def test_a_verb_that_no_sentence_shows_is_not_guessed():
    with pytest.raises(SampleError, match="no sentence of the table shows how 'swim' and an object are joined"):
        asked("verb", "man,walk,street", "man,swim,street")


def test_verbs_and_plurals():
    verbs = {"sit": "sitting", "lie": "lying", "run": "running", "ride": "riding", "picnic": "picnicking", "walking": "walking"}
    assert {verb: participle(verb) for verb in [*verbs, "take off"]} == {**verbs, "take off": "taking off"}
    assert all(map(is_plural, ["people", "men", "children", "dogs", "police"]))
    assert not any(map(is_plural, ["grass", "team", "bus", "dress", "man", "class", "boss"]))


# Questions of others


def test_prompts_of_ones_own(tmp_path, read):
    asked = [["2", "Did the man SIT or lie on grass, please?"], ["1", "Does the dog lie or sit here?"]]
    source = read([LYING, SITTING], prompts=write(tmp_path, asked, ["Row", "question"], "prompts.csv"))
    made = {candidate.sample_id: candidate.make() for candidate in source.candidates}
    for name, right, wrong in [("pos", "SIT", "lie"), ("neg", "lie", "SIT")]:
        assert made[f"row-00002-{name}"]["question"] == asked[0][1]
        assert (made[f"row-00002-{name}"]["correct_answer"], made[f"row-00002-{name}"]["incorrect_answer"]) == (right, wrong)
    assert (made["row-00002-pos"]["noun"], made["row-00001-pos"]["noun"]) == ("man", "")
    assert source.provenance["prompts"]["file"] == "prompts.csv"


def test_a_prompt_without_the_options_leaves_its_row_out(tmp_path, read):
    prompts = write(tmp_path, [["2", "Is he sitting or standing?"]], ["row", "question"], "prompts.csv")
    source = read([LYING, SITTING], prompts=prompts)
    assert set(left_out(source)) == {"row-00002-pos", "row-00002-neg"}
    assert "does not name 'sit' and 'lie'" in left_out(source)["row-00002-pos"]


def test_prompts_of_no_row_stop(tmp_path, read):
    rows = [["1", "A?"], ["3", "B?"], ["0", "C?"], ["x", "D?"], ["1", "E?"], ["2", ""]]
    with pytest.raises(SampleError) as caught:
        read([LYING, SITTING], prompts=write(tmp_path, rows, ["row", "question"], "prompts.csv"))
    assert [line[:6] for line in caught.value.problems] == ["line 3", "line 4", "line 5", "line 6", "line 7"]


def test_options_of_a_question_prefer_the_participle():
    man = ("man", "sit", "grass")
    assert options_in("Is sit or lie, sitting or lying meant?", "verb", man, ("man", "lie", "grass")) == ("sitting", "lying")
    assert options_in("Men or a girl?", "subject", man, ("girl", "sit", "grass")) == ("Men", "girl")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Is a man sitting, or lying, in green grass?", ""),
        ("Is the man lying or sitting in the grass?", "does not have 'lying' in its place"),
        ("Is the man sitting or lying in the meadow?", "does not have 'grass'"),
        ("Is the man sitting-down or lying in the grass?", "does not have 'sitting'"),
        ("Is the man sitting and lying in the grass?", "does not have 'or'"),
        ("The man is sitting or lying in the grass.", "not one question"),
        ("Is the man sitting or lying in the grass?\nYes?", "not one question"),
        ("", "not one question"),
        ("Well, " * 10 + "is the man sitting or lying in the grass?", "much longer"),
    ],
)
def test_what_a_rephrased_question_must_keep(answer, reason):
    found = fault(answer, "Is the man sitting or lying in the grass?", ["man", "sitting", "lying", "grass"])
    assert found.startswith(reason) if reason else found == ""


def test_a_models_version_is_used_where_it_keeps_the_words_and_is_logged(tmp_path, read):
    log, calls = tmp_path / "deep" / "rephrased.jsonl", []

    def generate(question):
        calls.append(question)
        return f' "{question.replace("Is the", "Is a")}"\n' if "sitting or lying" in question else "No."

    rows = [LYING, SITTING]
    plain = questions(read(rows))
    rephrased = questions(source := read(rows, rephrase=Rephraser(generate, "model 1", log)))
    assert rephrased == {name: text.replace("Is the", "Is a") if "sitting or" in text else text for name, text in plain.items()}
    assert rephrased != plain
    assert source.provenance["rephrased"] == {"model": "model 1", "log": "rephrased.jsonl"}
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(record["question"], record["used"]) for record in records} == {(text, "sitting or" in text) for text in plain.values()}

    asked_before = len(calls)
    with log.open("a") as file:
        file.write('{"question": "half a')
    assert questions(read(rows, rephrase=Rephraser(generate, "model 1", log))) == rephrased
    assert len(calls) == asked_before
    questions(read(rows, rephrase=Rephraser(generate, "model 2", log)))
    assert len(calls) == 2 * asked_before


@pytest.mark.parametrize("chat", [False, True])
def test_a_local_model_rephrases(tmp_path, read, chat):
    """A random model says nothing of use, so every question stays as it was."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[END]": 1, "man": 2, "or": 3, "?": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[END]", pad_token="[END]")
    if chat:
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    config = GPT2Config(vocab_size=5, n_positions=128, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    rephraser = load_rephraser(tmp_path / "model", tmp_path / "log.jsonl")
    plain = questions(read([LYING, SITTING]))
    assert questions(read([LYING, SITTING], rephrase=rephraser)) == plain
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {record["question"] for record in records} == set(plain.values())
    assert {record["used"] for record in records} == {False}


def test_a_text_models_own_code_is_never_run(tmp_path, monkeypatch):
    """Nor asked for: transformers would ask whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(SampleError, match="wants code of its own to be run"):
        load_rephraser(tmp_path, tmp_path / "log.jsonl")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_model_stops(tmp_path):
    with pytest.raises(SampleError, match="not the folder of a Hugging Face model"):
        load_rephraser(tmp_path, tmp_path / "log.jsonl")


# Photographs


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def rows_on(server, paths):
    """Rows on each two of some paths, one after the other."""
    urls = [server.url(path) for path in paths]
    return [
        row("A man is sitting in the grass.", "man,sit,grass", "man,sit,bed", "object", (i, i + 1), urls[i : i + 2])
        for i in range(0, len(urls), 2)
    ]


def web(folder):
    return Web(Downloads(folder, Limits(seconds=5, pause=0.01, allow_private=True)))


def test_a_limit_fetches_no_more_than_it_needs(tmp_path, server):
    paths = [path for i in range(20) for path in (f"ok/{i}", f"missing/{i}" if i % 2 else f"fine/{i}")]
    source = read_svo_probes(write(tmp_path, rows_on(server, paths)), web(tmp_path / "images"))
    record = prepare(Preparation(out=tmp_path / "t", limit=4), source, progress=False)
    assert record["samples"] == 4
    assert all("HTTP 404" in entry["reason"] for entry in record["left_out"])
    dead = len(record["left_out"])
    assert dead > 0
    assert len(server.seen) <= 2 * (4 + dead) < len(paths)
    assert set(server.seen.values()) == {1}
    assert 0 < len((tmp_path / "images" / DEAD_LINKS).read_text().splitlines()) - 1 <= dead


def test_photographs_are_found_by_either_name(tmp_path, photographs):
    table = write(tmp_path, [row("A man is sitting in the grass.", "man,sit,grass", "man,sit,bed", "object", (98, 1))])
    make = {candidate.sample_id: candidate.make for candidate in read_svo_probes(table, photographs).candidates}
    with pytest.raises(ValueError, match=r"photographs has no file named '98' or '[0-9a-f]{64}'"):
        make["row-00001-pos"]()
    Image.new("RGB", (9, 8)).save(photographs.folder / f"{Downloads.name('https://example.org/98.jpg')}.png")
    make = {candidate.sample_id: candidate.make for candidate in read_svo_probes(table, Folder(photographs.folder)).candidates}
    sample = make["row-00001-pos"]()
    assert (sample["clean_image"].size, sample["corrupt_image"].size) == ((9, 8), (30, 20))


def test_a_photograph_that_is_used_and_changed_is_another(tmp_path, photographs):
    table = write(tmp_path, [LYING, SITTING])
    before = read_svo_probes(table, photographs).images
    os.utime(photographs.folder / "9.jpg", ns=(1, 1))
    assert read_svo_probes(table, photographs).images == before
    os.utime(photographs.folder / "3.jpg", ns=(1, 1))
    assert read_svo_probes(table, photographs).images != before


def test_ids_that_a_program_read_as_numbers(tmp_path, photographs):
    cells = [*SITTING[:5], "2.0", "3.00", *SITTING[7:]]
    source = read_svo_probes(write(tmp_path, [LYING, cells]), photographs)
    shown = {candidate.sample_id: candidate.make()["clean_image"].tobytes() for candidate in source.candidates}
    assert shown["row-00002-pos"] == Image.open(photographs.folder / "2.jpg").tobytes()
    assert shown["row-00002-neg"] == Image.open(photographs.folder / "3.jpg").tobytes()


def command(*options):
    return [sys.executable, str(ROOT / "data_prep" / "svo_probes.py"), *map(str, options)]


def test_the_command_goes_on_after_an_interruption(tmp_path, server):
    table = write(tmp_path, rows_on(server, [f"pause/{i}" for i in range(24)]))
    options = ["--table", table, "--workers", 1, "--allow-private", "--out", tmp_path / "t", "--downloads", tmp_path / "images"]
    first = subprocess.Popen(command(*options), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(server.seen) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=20)
    assert first.returncode == 130
    assert "interrupted; what is finished is kept" in said
    assert "Traceback" not in said
    kept = [path.name for path in (tmp_path / "images").iterdir() if path.name != DEAD_LINKS]
    assert 0 < len(kept) < 24
    assert not any("." in name for name in kept)

    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "24 samples (24 object)" in done.stdout
    again = [path for path, times in server.seen.items() if times > 1]
    assert len(again) <= 1  # the one that was under way
    assert all(Downloads.name(server.url(path)) not in kept for path in again)
    assert len(samples.load(tmp_path / "t")) == 24


def test_the_command_says_what_is_wrong(tmp_path):
    table = write(tmp_path, [LYING, SITTING])
    for options, says in [
        (["--table", tmp_path / "absent.csv"], "no such file; expected:"),
        (["--table", table, "--images", tmp_path / "absent"], "absent does not exist"),
        (["--table", table, "--workers", 0], "must be above 0"),
    ]:
        done = subprocess.run(command(*options, "--out", tmp_path / "t"), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
