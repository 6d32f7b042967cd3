"""A results file in the making: what is there of another configuration, and when it is replaced."""

import numpy as np
import pytest
import xarray as xr

from interventions.results.manifest import read_manifest
from interventions.results.store import Store, StoreError


def write(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path)


@pytest.fixture
def path(tmp_path):
    """A finished file, made with seed 0."""
    path = tmp_path / "mlp.nc"
    Store(path, {"seed": 0}).finish(xr.Dataset({"x": 0}), write)
    return path


def test_a_run_that_ends_before_its_first_sample_replaces_nothing(path):
    store = Store(path, {"seed": 1}, overwrite=True)
    assert not store.is_finished
    assert not store.has("a")
    assert Store(path, {"seed": 0}).is_finished


def test_the_first_sample_replaces_the_file_and_its_configuration(path):
    Store(path, {"seed": 1}, overwrite=True).put("a", {"x": np.zeros(1)})
    assert not path.exists()
    assert Store(path, {"seed": 1}).has("a")
    with pytest.raises(StoreError, match="seed: 1 there, 0 asked for"):
        Store(path, {"seed": 0})


def test_samples_of_another_configuration_are_neither_used_nor_lost_before_the_first_sample(tmp_path):
    path = tmp_path / "mlp.nc"
    Store(path, {"seed": 0}).put("a", {"x": np.zeros(1)})
    store = Store(path, {"seed": 1}, overwrite=True)
    assert not store.has("a")
    assert Store(path, {"seed": 0}).has("a")
    store.put("b", {"x": np.ones(1)})
    assert store.has("b")
    assert not store.has("a")


def test_a_file_without_samples_replaces_another(path):
    Store(path, {"seed": 1}, overwrite=True).finish(xr.Dataset({"x": 1}), write)
    assert Store(path, {"seed": 1}).is_finished


def test_a_damaged_file_is_named_and_can_be_replaced(path):
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"mlp\.nc is damaged.*--overwrite"):
        Store(path, {"seed": 0})
    Store(path, {"seed": 0}, overwrite=True).finish(xr.Dataset({"x": 0}), write)
    assert Store(path, {"seed": 0}).is_finished


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"runs": ')
    with pytest.raises(StoreError, match=r"manifest\.json is damaged.*Delete it"):
        read_manifest(tmp_path)
