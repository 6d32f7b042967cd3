"""The jobs under way on a remote host, so that a program that is started again takes them up."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from interventions.backends.shipping import PACKAGES
from interventions.results.store import write_text

ROOT = Path(__file__).resolve().parents[2]


class Journal:
    """Job ids by the names of what they measure, in a results folder; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / ".remote-jobs.json" if folder else None

    def under_way(self) -> dict[str, str]:
        return json.loads(self._path.read_text()) if self._path and self._path.is_file() else {}

    def note(self, name: str, job: str) -> None:
        """Keep the job by which something is being measured."""
        self._change((), {name: job})

    def drop(self, *names: str) -> None:
        """Forget the jobs of what is measured and kept, or cannot be had from them."""
        self._change(names, {})

    def _change(self, without: Collection[str], more: dict[str, str]) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            jobs = {name: job for name, job in self.under_way().items() if name not in without}
            write_text(self._path, json.dumps(jobs | more, indent=1))


class _Digest(pickle.Pickler):
    """Pickles tensors by their values alone."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return bytes, (obj.contiguous().flatten().view(torch.uint8).numpy().tobytes(),)
        return NotImplemented


def name_of(model_key: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """A name for a job: the same model, code and arguments have the same."""
    with io.BytesIO() as file:
        _Digest(file).dump((model_key, function.__module__, function.__qualname__, arguments))
        return hashlib.sha256(_code() + file.getvalue()).hexdigest()[:32]


@cache
def _code() -> bytes:
    """A hash of the code that may be sent."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()
