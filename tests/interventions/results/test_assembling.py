"""One way to make every file: common coordinates and attributes, baselines, draws, and NaN past the end of short prompts."""

import numpy as np
import pytest

from interventions.results.assembling import ATTRIBUTES, assemble, clean_first, stacked, token_coordinates
from interventions.results.effects import SchemaError
from interventions.results.roles import EVERY, Cell

COMMON = dict.fromkeys(ATTRIBUTES, "x")
EFFECTS = COMMON | {"granularity": "heads", "corruption": "sip", "modality": "image"}


def sample(name):
    texts = dict.fromkeys(("category", "correct_answer", "incorrect_answer", "clean_prompt", "corrupt_prompt", "given_answer"), name)
    return {"sample_id": name, "correct_first": name == "a", **texts}


SAMPLES = [sample("a"), sample("b")]
DIMS = ("sample", "draw", "layer", "head", "token")
CELLS = [[Cell("noun", "cup", (1,)), Cell("?", "?", (2,))], [Cell("noun", "dog", (1,))]]


def parts(draws):
    """Two samples, of two and of one cell, in one layer with three heads; every number is another."""
    numbers = iter(range(10**6))

    def fresh(*shape):
        return np.array([next(numbers) for _ in range(np.prod(shape))], np.float32).reshape(shape)

    return [{"patched": fresh(draws, 1, 3, len(cells), 3), "runs": fresh(draws, 2, 3)} for cells in CELLS]


def assembled(draws, attributes=EFFECTS):
    given = parts(draws)
    whole = stacked(iter(given), 2, 2, {"patched": 3})
    coordinates = {"layer": np.arange(1), "head": np.arange(3), **token_coordinates(CELLS, (EVERY,))}
    return given, assemble(attributes, SAMPLES, coordinates, {}, (DIMS, whole["patched"]), whole["runs"])


@pytest.mark.parametrize("draws", [1, 2])
def test_measurements_baselines_and_draws(draws):
    given, dataset = assembled(draws)
    assert ("draw" in dataset.dims) == (draws > 1)
    for row, part in enumerate(given):
        cells = len(CELLS[row])
        for number, name in enumerate(("logit_correct", "logit_incorrect", "log_normalizer")):
            one = dataset[name].isel(sample=row).values.reshape(draws, 1, 3, 2)
            np.testing.assert_array_equal(one[..., :cells], part["patched"][..., number])
            assert np.isnan(one[..., cells:]).all()
            assert dataset[f"clean_{name}"].values[row] == part["runs"][0, 0, number]
            np.testing.assert_array_equal(dataset[f"corrupt_{name}"].values[row].ravel(), part["runs"][:, 1, number])
    assert dataset["token_text"].values.tolist() == [["cup", "?"], ["dog", ""]]
    assert dataset["correct_first"].values.tolist() == [True, False]
    assert dataset["clean_prompt"].values.tolist() == dataset["given_answer"].values.tolist() == ["a", "b"]


def test_a_clean_run_alone_has_no_corrupt_baseline():
    clean = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    dataset = assemble(COMMON, SAMPLES, {}, {"share": (("sample",), np.zeros(2))}, None, clean)
    assert dataset["clean_logit_incorrect"].values.tolist() == [1, 4]
    assert not [name for name in dataset if name.startswith("corrupt_")]


@pytest.mark.parametrize("missing", ATTRIBUTES)
def test_a_file_without_a_common_attribute_is_refused(missing):
    with pytest.raises(ValueError, match=f"needs the attributes {missing}"):
        assembled(1, {name: value for name, value in EFFECTS.items() if name != missing})


def test_effects_without_a_modality_are_refused_with_what_to_do():
    with pytest.raises(SchemaError, match=r"'modality' is missing.*delete the file"):
        assembled(1, {name: value for name, value in EFFECTS.items() if name != "modality"})


def test_numbers_and_texts_are_stacked_in_the_type_that_they_have():
    first = {"one": np.array(1.5, np.float32), "top": np.array([3, 4], np.int32)}
    second = {"one": np.array(2, np.float32), "top": np.array([5, 6], np.int32)}
    whole = stacked(iter([first, second]), 2)
    assert whole["one"].tolist() == [1.5, 2]
    assert whole["top"].tolist() == [[3, 4], [5, 6]]
    assert (whole["one"].dtype, whole["top"].dtype) == (np.float32, np.int32)


def test_runs_are_kept_clean_first_in_both_directions():
    runs = np.arange(6).reshape(2, 3)
    assert clean_first(runs, "corrupt").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert clean_first(runs, "clean").tolist() == [[3, 4, 5], [0, 1, 2]]
