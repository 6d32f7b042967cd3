"""Whether a stage is finished already: seen from options and from the sizes and times of files, before any library is loaded.

A stage is what a command makes of some options and input files. When it has ended, `.finished.json` of the results folder keeps a digest of
all that it depended on, and what it wrote. A note only saves work: where anything differs (an option, a file, the program, a library, the
devices), the stage is done again, and looks into the files themselves.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ("run_all.py", "interventions", "corruptions", "data_prep", "analysis")
FILE = ".finished.json"
States = dict[str, list[int]]  # of files, by their paths: size, time of change of the content, and of the file


@dataclass(frozen=True)
class Stage:
    """What a command makes, into a results folder.

    Attributes
    ----------
    name : the stage's; of each name the last one that has ended is known
    options : dataclasses: all that was asked for
    inputs : the files, and folders of files, that are read
    """

    results: Path
    name: str
    options: tuple[Any, ...]
    inputs: tuple[Path, ...]

    def words(self) -> list[str] | None:
        """What the stage said when it ended, if it need not run again; else None."""
        entry = _read(self.results).get(self.name)
        if entry is None or states(map(Path, entry["outputs"])) != entry["outputs"]:
            return None
        return entry["words"] if self._digest(self.read(), entry["outputs"]) == entry["depends_on"] else None

    def read(self) -> States:
        """The states of the input files; files of locks and notes aside."""
        return states(self.inputs)

    def end(self, before: States, outputs: Iterable[Path], words: Iterable[str] = ()) -> None:
        """Note that the stage has ended, unless its inputs were changed while it ran.

        Parameters
        ----------
        before : `read` of the beginning
        outputs : the files written, which do not count as inputs
        words : what is to be said again where the stage is found finished
        """
        written = states(outputs)
        digest = self._digest(self.read(), written)
        if digest != self._digest(before, written):
            return
        entry = {"depends_on": digest, "outputs": written, "words": list(words)}
        with FileLock(self.results / ".finished.lock"):
            path = self.results / FILE
            temporary = path.with_name(f"{FILE}.{os.getpid()}")
            temporary.write_text(json.dumps(_read(self.results) | {self.name: entry}, indent=1), encoding="utf-8")
            os.replace(temporary, path)

    def _digest(self, inputs: States, outputs: Mapping[str, Any]) -> str:
        options = [[type(one).__name__, asdict(one)] for one in self.options]
        read = {path: state for path, state in inputs.items() if path not in outputs}
        text = json.dumps([_program(), options, read], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def states(paths: Iterable[Path]) -> States:
    """The state of each file, or of each file below a folder; what is absent has none. Locks and the notes of `Stage` are left out."""
    found: States = {}
    for path in paths:
        for file in _files(path.absolute()):
            if file.suffix != ".lock" and not file.name.startswith(FILE):
                status = file.stat()
                found[str(file)] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return dict(sorted(found.items()))


def named_paths(options: Mapping[str, Any] | Iterable[Any]) -> Iterator[Path]:
    """The paths among the values of options, at any depth: what is there may be read."""
    for value in options.values() if isinstance(options, dict) else options:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, str) and value and Path(value).exists():
            yield Path(value)
        elif isinstance(value, (dict, list, tuple)):
            yield from named_paths(value)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path, followlinks=True):
        if Path(folder).name != "__pycache__":
            yield from (file for name in names if (file := Path(folder, name)).is_file())


def _read(results: Path) -> dict[str, Any]:
    try:
        return json.loads((results / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@cache
def _program() -> list[Any]:
    """The program's files, the installed libraries with their versions, and the devices that it may use."""
    files = {str(Path(path).relative_to(ROOT)): state for path, state in states(ROOT / name for name in PROGRAM).items()}
    devices = sorted(map(str, Path("/dev").glob("nvidia*"))), os.environ.get("CUDA_VISIBLE_DEVICES")
    libraries = sorted({path.name for folder in sys.path for path in Path(folder).glob("*.dist-info")})
    return [files, libraries, platform.python_version(), devices]
