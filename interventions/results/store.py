"""Files of a results folder: how they are written, and the finished samples of a file that is not finished."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from data_prep.tables.command import Fault

Arrays = Mapping[str, np.ndarray]


class StoreError(Fault):
    """The results folder cannot be used as asked; says what is there, what was wanted and what to do."""


def check_writable(folder: Path) -> None:
    """Make a folder, and raise `StoreError` if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-") as file:
            file.write(b"0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write into {folder}: {error.strerror or error}; choose another folder with --out") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What a JSON file says; raises `StoreError` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: it is not JSON ({error}). Delete it and run again") from error


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What two configurations differ in, in words ("" if in nothing)."""
    keys = [key for key in dict.fromkeys([*stored, *wanted]) if stored.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {stored.get(key)!r} there, {wanted.get(key)!r} asked for" for key in keys)


class Store:
    """One results file in the making. Each finished sample is a small file beside it, so that an interrupted run loses none.

    Parameters
    ----------
    path : the NetCDF file that is made in the end
    configuration : everything that the numbers depend on; files of another configuration are never mixed in or replaced in silence
    overwrite : replace what is there of another configuration: once the first sample is finished; a run that ends before loses nothing
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path, self.configuration = path, json.loads(json.dumps(configuration))
        self.parts = path.with_name(f".{path.stem}.partial")
        self._file_is_replaced = self._differs(self._finished(overwrite), overwrite)
        self._parts_are_replaced = self._differs(self._started(), overwrite)
        if self.is_finished:
            self._drop_parts()  # left by a run that was killed between the last two steps of `finish`

    def _differs(self, existing: Mapping[str, Any] | None, overwrite: bool) -> bool:
        """Whether something is there of another configuration; raises `StoreError` unless it may be replaced."""
        difference = differences(existing, self.configuration) if existing is not None else ""
        if difference and not overwrite:
            raise StoreError(
                f"{self.path} holds results of another configuration ({difference}). Choose another folder with --out, or replace them "
                "with --overwrite"
            )
        return bool(difference)

    def _replace(self) -> None:
        """Remove what is there of another configuration, now that there is something to put in its place."""
        if self._parts_are_replaced:
            self._drop_parts()
        if self._file_is_replaced:
            self.path.unlink(missing_ok=True)
        self._parts_are_replaced = self._file_is_replaced = False

    def _finished(self, overwrite: bool) -> dict[str, Any] | None:
        """The configuration of the finished file; empty where it is damaged and may be replaced."""
        if not self.path.is_file():
            return None
        try:
            with xr.open_dataset(self.path) as dataset:
                return json.loads(dataset.attrs.get("configuration", "{}"))
        except (OSError, ValueError) as error:
            if overwrite:
                return {}
            message = f"{self.path} is damaged, or not a NetCDF4 file. Delete it and run again, or replace it with --overwrite"
            raise StoreError(message) from error

    def _started(self) -> dict[str, Any] | None:
        path = self.parts / "configuration.json"
        return read_json(path) if path.is_file() else None

    def _drop_parts(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)

    @property
    def is_finished(self) -> bool:
        return self.path.is_file() and not self._file_is_replaced

    def _part(self, sample_id: str) -> Path:
        return self.parts / f"{hashlib.sha256(sample_id.encode()).hexdigest()[:32]}.npz"

    def has(self, sample_id: str) -> bool:
        """Whether a sample is finished."""
        return self._part(sample_id).is_file() and not self._parts_are_replaced

    def get(self, sample_id: str) -> Arrays:
        """The arrays of a finished sample."""
        with np.load(self._part(sample_id)) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def put(self, sample_id: str, arrays: Arrays) -> None:
        """Keep a finished sample."""
        self._replace()
        path = self._part(sample_id)
        if not self.parts.is_dir():
            self.parts.mkdir(parents=True)
            write_text(self.parts / "configuration.json", json.dumps(self.configuration))
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"could not write {path}: {error.strerror or error}. The samples finished before are kept; free some space and run again"
            ) from error

    def finish(self, dataset: xr.Dataset, write: Callable[[xr.Dataset, Path], None]) -> None:
        """Write the results file with its configuration, and drop the parts.

        Last: a run that is finished is not looked at again, so whatever else is to be said of it must have been said.
        """
        self._replace()
        write(dataset.assign_attrs(configuration=json.dumps(self.configuration, sort_keys=True)), self.path)
        self._drop_parts()
