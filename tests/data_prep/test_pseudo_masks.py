"""Guessed masks: tiny random CLIPSeg and OWL-ViT checkpoints, whose own outputs say what the masks must be."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
)
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from data_prep import pseudo_masks
from data_prep.masks import guessing
from data_prep.masks.guessing import make_pseudo_masks
from data_prep.masks.options import PseudoMasks
from data_prep.tables import schema as samples
from data_prep.tables.sample import SampleError

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(40, 24), (24, 40), (32, 32), (17, 51), (60, 20)]
NOUNS = ["cup", "tin can", "cup", "", "dog"]
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**LAYERS, "vocab_size": 56, "max_position_embeddings": 16, "eos_token_id": 55, "bos_token_id": 54, "pad_token_id": 55}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}


def tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz "
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=16)


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config=TEXT,
        vision_config=VISION,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-clipseg"
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    CLIPSegProcessor(processor, tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def owlvit(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-owlvit"
    model = OwlViTForObjectDetection(OwlViTConfig(text_config=TEXT, vision_config=VISION, projection_dim=16))
    for parameter in model.box_head.parameters():
        parameter.data *= 0.2  # else random boxes are all at the border
    model.save_pretrained(folder)
    processor = OwlViTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    OwlViTProcessor(processor, tokenizer()).save_pretrained(folder)
    return folder


def row(number, mask=None):
    noise = np.random.default_rng(number)
    width, height = SIZES[number]
    clean, corrupt = (Image.fromarray(noise.integers(0, 256, (height, width, 3)).astype(np.uint8)) for _ in range(2))
    return {
        "sample_id": f"s{number}",
        "dataset": "mine",
        "category": "colour",
        "question": f"Is the {NOUNS[number] or 'thing'} red or blue?",
        "correct_answer": "red",
        "incorrect_answer": "blue",
        "noun": NOUNS[number],
        "clean_image": clean,
        "corrupt_image": corrupt,
        "object_mask": mask,
    }


@pytest.fixture
def table(tmp_path):
    left_out = [{"sample": "z", "reason": "broken"}]
    samples.save(samples.build(map(row, range(5))), tmp_path / "table", {"name": "mine", "seed": 3, "left_out": left_out})
    return tmp_path / "table"


def options(table, model, **more):
    return PseudoMasks(table=table, model=str(model), out=table.parent / "out", **({"batch_size": 2} | more))


def make(*args, **more):
    return make_pseudo_masks(options(*args, **more), progress=False)


def masks(folder):
    return [None if mask is None else np.asarray(mask) for mask in samples.load(folder)["object_mask"]]


def stretched(values, width, height):
    """Linear interpolation between pixel centres, the border continued."""
    columns, rows = ((np.arange(n) + 0.5) * values.shape[axis] / n - 0.5 for n, axis in ((width, 1), (height, 0)))
    wide = np.stack([np.interp(columns, np.arange(values.shape[1]), line) for line in values])
    return np.stack([np.interp(rows, np.arange(values.shape[0]), line) for line in wide.T], 1)


def test_clipseg_masks_are_its_probabilities_above_the_threshold(table, clipseg):
    record = make(table, clipseg, threshold=0.45, prompt="a {noun} {x}")
    model, processor = CLIPSegForImageSegmentation.from_pretrained(clipseg), CLIPSegProcessor.from_pretrained(clipseg)
    old, new = samples.load(table), samples.load(table.parent / "out")
    shares = []
    for before, after in zip(old, new, strict=True):
        same = set(samples.FEATURES) - {"dataset", "object_mask", "object_box"}
        assert all(before[name] == after[name] for name in same)
        assert after["dataset"] == "mine-pseudo-masks"
        if not before["noun"]:
            assert (after["object_mask"], list(after["object_box"])) == (None, [])
            continue
        with torch.no_grad():
            logits = model(**processor(text=[f"a {before['noun']} {{x}}"], images=[before["clean_image"]], return_tensors="pt")).logits
        probability = stretched(1 / (1 + np.exp(-logits.double().numpy().reshape(32, 32))), *before["clean_image"].size)
        clear = np.abs(probability - 0.45) > 1e-4
        mask = np.asarray(after["object_mask"])
        np.testing.assert_array_equal(mask[clear], np.where(probability > 0.45, 255, 0)[clear])
        rows, columns = np.nonzero(mask)
        assert list(after["object_box"]) == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        shares.append((mask > 0).mean())
    assert 0 < min(shares) < max(shares) < 1
    assert (record["name"], record["masks"], record["seed"]) == ("mine-pseudo-masks", "pseudo: tiny-clipseg", 3)
    assert record["left_out"] == [{"sample": "z", "reason": "broken"}]
    assert record["source_table"]["fingerprint"] == samples.fingerprint(old)
    made = record["pseudo_masks"]
    assert (made["threshold"], made["prompt"], made["made"], made["kept"]) == (0.45, "a {noun} {x}", 4, 0)
    assert made["without"] == [{"sample": "s3", "reason": "the sample has no noun"}]
    assert samples.provenance(table.parent / "out") == record


def test_owlvit_masks_are_the_best_box(table, owlvit):
    make(table, owlvit, threshold=0.0)
    model, processor = OwlViTForObjectDetection.from_pretrained(owlvit), OwlViTProcessor.from_pretrained(owlvit)
    checked = 0
    for row in samples.load(table.parent / "out"):
        if not row["noun"]:
            continue
        with torch.no_grad():
            found = model(**processor(text=[[row["noun"]]], images=[row["clean_image"]], return_tensors="pt"))
        x, y, w, h = found.pred_boxes[0, found.logits[0, :, 0].argmax()].tolist()
        width, height = row["clean_image"].size
        box = [
            max(0, (x - w / 2) * width),
            max(0, (y - h / 2) * height),
            min(width, (x + w / 2) * width),
            min(height, (y + h / 2) * height),
        ]
        assert np.abs(np.array(box) - list(row["object_box"])).max() <= 1
        left, top, right, bottom = row["object_box"]
        assert np.asarray(row["object_mask"])[top:bottom, left:right].min() == 255
        assert (np.asarray(row["object_mask"]) > 0).sum() == (right - left) * (bottom - top)
        checked += 1
    assert checked == 4


def test_a_sample_in_which_nothing_is_found_stays_without(table, clipseg, monkeypatch):
    finds(monkeypatch, "cup")
    record = make(table, clipseg)
    assert [mask is not None for mask in masks(table.parent / "out")] == [True, False, True, False, False]
    reasons = {entry["sample"]: entry["reason"] for entry in record["pseudo_masks"]["without"]}
    assert list(reasons) == ["s1", "s3", "s4"]
    assert reasons["s4"] == "the model finds no 'dog' above the threshold 0.5"


def finds(monkeypatch, thing, interrupt_at=None):
    """A model that finds one thing everywhere and nothing else; returns the texts that it is given."""
    given = []

    def find(module, processor, images, texts, threshold):
        if interrupt_at is not None and len(given) >= interrupt_at:
            raise KeyboardInterrupt
        given.extend(texts)
        return [np.full((image.height, image.width), text == thing) for image, text in zip(images, texts, strict=True)]

    auto, threshold, _ = guessing._KINDS["clipseg"]
    monkeypatch.setitem(guessing._KINDS, "clipseg", (auto, threshold, find))
    return given


def test_an_interrupted_run_goes_on_and_a_finished_one_is_left_alone(table, clipseg, monkeypatch, capsys):
    given = finds(monkeypatch, "cup", interrupt_at=2)
    with pytest.raises(SystemExit) as ended:
        pseudo_masks.main(options(table, clipseg))
    assert ended.value.code == 130
    assert "interrupted; what is finished is kept" in capsys.readouterr().err
    assert given == ["cup", "tin can"]
    assert not (table.parent / "out").exists()
    given = finds(monkeypatch, "cup")
    pseudo_masks.main(options(table, clipseg))
    assert given == ["cup", "dog"]
    assert "2 masks by tiny-clipseg, 0 kept, 3 samples without" in capsys.readouterr().out
    assert sorted(path.name for path in table.parent.iterdir()) == ["out", "table"]
    stamp = (table.parent / "out" / "data.json").stat().st_mtime_ns
    make(table, clipseg)
    assert given == ["cup", "dog"]
    assert (table.parent / "out" / "data.json").stat().st_mtime_ns == stamp
    make(table, clipseg, threshold=0.4)
    assert given == ["cup", "dog", "cup", "tin can", "cup", "dog"]


def test_parts_of_other_options_are_not_used(table, clipseg, monkeypatch):
    finds(monkeypatch, "cup", interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        make(table, clipseg)
    given = finds(monkeypatch, "cup")
    make(table, clipseg, threshold=0.3)
    assert given == ["cup", "tin can", "cup", "dog"]


def test_masks_that_the_table_has_are_kept(tmp_path, clipseg, monkeypatch):
    finds(monkeypatch, "cup")
    own = Image.fromarray(np.eye(24, 40, dtype=np.uint8) * 255)
    samples.save(samples.build([row(0, own), row(2)]), tmp_path / "table", {"name": "mine"})
    record = make(tmp_path / "table", clipseg)
    kept, made = masks(tmp_path / "out")
    np.testing.assert_array_equal(kept, np.asarray(own))
    assert made.all()
    assert record["masks"] == "pseudo: tiny-clipseg (1 samples; the masks of 1 others are the data set's own)"
    with pytest.raises(SampleError, match=r"no sample lacks a mask and has a noun \(2 of 2 have masks\)"):
        make_pseudo_masks(PseudoMasks(table=tmp_path / "out", model=str(clipseg), out=tmp_path / "again"), progress=False)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"threshold": 1.0}, "--threshold from 0 up to but not 1"),
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
        ({"prompt": "cup"}, "--prompt must have {noun}"),
        ({"model": "absent/folder/deep"}, "could not load 'absent/folder/deep'"),
        ({"device": "gpu"}, "could not load .* on gpu"),
    ],
)
def test_options_that_cannot_be_used(table, clipseg, more, says):
    with pytest.raises(SampleError, match=says):
        make(table, more.pop("model", clipseg), **more)
    assert not (table.parent / "out").exists()


def test_a_table_for_which_nothing_is_found(table, clipseg, monkeypatch):
    finds(monkeypatch, "bird")
    with pytest.raises(SampleError, match=r"tiny-clipseg finds the noun of no sample above the threshold 0\.5; try a lower --threshold"):
        make(table, clipseg)
    assert not (table.parent / "out").exists()


def test_the_table_itself_and_other_folders_are_never_replaced(table, clipseg):
    with pytest.raises(SampleError, match="--out is the table itself"):
        make_pseudo_masks(PseudoMasks(table=table, model=str(clipseg), out=table / "../table"), progress=False)
    (table.parent / "out").mkdir()
    (table.parent / "out" / "notes.txt").write_text("mine")
    with pytest.raises(SampleError, match="exists and is not a sample table"):
        make(table, clipseg)


def test_models_that_cannot_be_used(table, clipseg, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(clipseg, other)
    (other / "model.safetensors").rename(other / "away")
    torch.save(CLIPSegForImageSegmentation.from_pretrained(clipseg).state_dict(), other / "pytorch_model.bin")
    with pytest.raises(SampleError, match="could not load"):
        make(table, other)
    (other / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(SampleError, match="could not load"):
        make(table, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SampleError, match="other is a bert model; supported: clipseg, owlvit"):
        make(table, other)
    own_code = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (other / "config.json").write_text(json.dumps(own_code))
    (other / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(SampleError, match="could not load"):
        make(table, other)
    assert not (tmp_path / "ran").exists()


def test_command_line(table, clipseg):
    command = [
        sys.executable,
        str(ROOT / "data_prep" / "pseudo_masks.py"),
        "--table",
        "table",
        "--model",
        str(clipseg),
        "--out",
        "new/masks",
    ]
    done = subprocess.run(command, cwd=table.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 masks by tiny-clipseg, 0 kept, 1 samples without, in new/masks" in done.stdout
    assert "no mask for s3: the sample has no noun" in done.stderr
    assert samples.provenance(table.parent / "new/masks")["masks"] == "pseudo: tiny-clipseg"
    with pytest.raises(SystemExit, match=r"data_prep\.pseudo_masks: no sample table at absent"):
        pseudo_masks.main(options(Path("absent"), clipseg))
