"""The metrics of effects against formulas worked out with numpy, the schema's errors, and writing that never leaves half a file."""

import netCDF4
import numpy as np
import pytest
import xarray as xr

from interventions.results.effects import MEASUREMENTS, SchemaError, read, validate, write
from interventions.results.metrics import METRICS, MetricError, register
from tests.support.synthetic_results import effects

ROLES = ["[CLS]", "noun", "noun", "?"]


@pytest.fixture
def dataset() -> xr.Dataset:
    generator = np.random.default_rng(0)
    found = effects(generator.normal(size=(5, 2, 4)), range(4), ROLES)
    for name in ("log_normalizer", "clean_logit_correct", "corrupt_logit_correct", "corrupt_logit_incorrect", "logit_incorrect"):
        found[name] = found[name] + generator.normal(0, 0.3, found[name].shape).astype("float32")
    return found


def numbers(dataset: xr.Dataset, name: str) -> np.ndarray:
    values = dataset[name].values.astype("float64")
    return values if values.ndim > 1 else values[:, None, None]


def test_logit_difference_is_patched_minus_corrupt(dataset):
    patched = numbers(dataset, "logit_correct") - numbers(dataset, "logit_incorrect")
    corrupt = numbers(dataset, "corrupt_logit_correct") - numbers(dataset, "corrupt_logit_incorrect")
    np.testing.assert_allclose(dataset.effects.logit_difference().values, patched - corrupt, rtol=1e-12)


def test_restoration_probability_is_a_difference_of_probabilities(dataset):
    patched = np.exp(numbers(dataset, "logit_correct") - numbers(dataset, "log_normalizer"))
    corrupt = np.exp(numbers(dataset, "corrupt_logit_correct") - numbers(dataset, "corrupt_log_normalizer"))
    np.testing.assert_allclose(dataset.effects.restoration_probability().values, patched - corrupt, rtol=1e-12)


def test_log_odds_are_those_of_the_correct_answer(dataset):
    def log_odds(prefix: str) -> np.ndarray:
        p = np.exp(numbers(dataset, f"{prefix}logit_correct") - numbers(dataset, f"{prefix}log_normalizer"))
        return np.log(p / (1 - p))

    np.testing.assert_allclose(dataset.effects.log_odds().values, log_odds("") - log_odds("corrupt_"), rtol=1e-9)


def test_normalized_effect_is_0_for_the_corrupt_run_and_1_for_the_clean_run(dataset):
    for run, expected in (("corrupt", 0.0), ("clean", 1.0)):
        same = dataset.copy()
        for name in ("logit_correct", "logit_incorrect"):
            same[name] = same[f"{run}_{name}"].broadcast_like(same[name])
        np.testing.assert_allclose(same.effects.normalized_effect().values, expected, atol=1e-12)


def test_normalized_effect_is_missing_where_clean_and_corrupt_agree(dataset):
    for name in ("logit_correct", "logit_incorrect"):
        dataset[f"clean_{name}"] = dataset[f"corrupt_{name}"]
    assert np.isnan(dataset.effects.normalized_effect().values).all()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_0_where_the_patched_run_is_the_base_run(dataset, name, direction):
    dataset.attrs["direction"] = direction
    dataset["kl_from_clean"] = dataset["logit_correct"].copy()
    dataset["corrupt_kl_from_clean"] = dataset["corrupt_logit_correct"].copy()
    for measurement in (*MEASUREMENTS, "kl_from_clean"):
        clean_divergence = direction == "noising" and measurement == "kl_from_clean"
        base = 0.0 * dataset["clean_logit_correct"] if clean_divergence else dataset[f"{dataset.effects.base}_{measurement}"]
        dataset[measurement] = base.broadcast_like(dataset[measurement])
    assert (getattr(dataset.effects, name)() == 0).all()
    assert name in dir(dataset.effects)


@pytest.mark.parametrize(
    ("formula", "null"),
    [
        (lambda runs: runs.patched.probability / runs.base.probability, 1),
        (lambda runs: runs.patched.logit_difference - runs.source.logit_difference, 2),
        (lambda runs: runs.patched.logit_difference * np.nan, "nan"),
    ],
)
def test_a_metric_whose_null_is_not_0_is_refused_with_the_reason(formula, null):
    formula.__name__ = "ratio"
    with pytest.raises(MetricError, match=f"'ratio' is {null} where the patched run is the base run. .* heads are tested against 0"):
        register("share", "P patched / P base")(formula)
    assert "ratio" not in METRICS


def test_a_metric_is_registered_once():
    def logit_difference(runs):
        return runs.patched.logit_difference - runs.base.logit_difference

    with pytest.raises(MetricError, match="'logit_difference' is registered already"):
        register("logits", "LD")(logit_difference)


def test_an_unknown_metric_is_named_with_those_there_are(dataset):
    for ask in (lambda: dataset.effects.metric("surprise"), lambda: dataset.effects.by_role("surprise")):
        with pytest.raises(MetricError, match="no metric 'surprise'; choose one of logit_difference, restoration_probability"):
            ask()
    with pytest.raises(AttributeError, match="no attribute 'surprise'; metrics are logit_difference"):
        dataset.effects.surprise()


def test_by_role_averages_the_tokens_of_a_role_and_leaves_out_padding(dataset):
    dataset["token_role"][1, 3] = ""
    values, found = dataset.effects.logit_difference().values, dataset.effects.by_role()
    assert found.dims == ("sample", "layer", "role")
    assert list(found["role"].values) == ["[CLS]", "noun", "?"]
    np.testing.assert_allclose(found.sel(role="noun").values, values[:, :, 1:3].mean(axis=2), rtol=1e-12)
    assert np.isnan(found.sel(role="?").values[1]).all()
    np.testing.assert_allclose(found.sel(role="?").values[0], values[0, :, 3], rtol=1e-12)


def test_an_unknown_run_is_named(dataset):
    with pytest.raises(ValueError, match="'patch' is not one of patched, clean, corrupt"):
        dataset.effects.logit_difference_of("patch")


def test_validate_names_everything_that_is_wrong(dataset):
    assert validate(dataset) is dataset
    broken = dataset.drop_vars(["clean_log_normalizer", "layer"]).transpose("layer", "sample", ...)
    del broken.attrs["corruption"]
    with pytest.raises(SchemaError) as error:
        validate(broken)
    for part in ("attribute 'corruption' is missing", "'clean_log_normalizer' ('sample',) is missing", "index 'layer' is missing"):
        assert part in str(error.value)
    assert "variable 'logit_correct' has dims ('layer', 'sample', 'token')" in str(error.value)


def test_what_is_written_is_read_back(dataset, tmp_path):
    write(dataset, tmp_path / "new" / "mlp.nc")
    xr.testing.assert_identical(read(tmp_path / "new" / "mlp.nc"), dataset)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(dataset, tmp_path, monkeypatch):
    path = tmp_path / "mlp.nc"
    write(dataset, path)
    before = path.read_bytes()

    def fails(self, target, **options):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fails)
    with pytest.raises(OSError, match=r"could not write .*mlp\.nc"):
        write(dataset * 2, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.nc"]


def test_reading_what_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no effects at .*; make them with"):
        read(tmp_path / "mlp.nc")


def test_a_sample_is_read_without_the_others(tmp_path):
    """A chunk holds whole samples, about a MiB of them, or one that is larger."""
    for shape, chunks in (((3, 2, 400_000), [1, 2, 400_000]), ((7, 2, 5), [7, 2, 5])):
        write(xr.Dataset({"values": (("sample", "layer", "place"), np.ones(shape, np.float32))}), tmp_path / "made.nc")
        with netCDF4.Dataset(tmp_path / "made.nc") as file:
            assert file["values"].chunking() == chunks
