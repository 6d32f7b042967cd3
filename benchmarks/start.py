"""CPU seconds until commands say something: `--help` of each, and a finished run that is found finished."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass

import tyro

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("interventions", "analysis", "data_prep")


@dataclass
class Start:
    """Measure the CPU seconds (user and system) of `--help` of every command, and of a finished run of run_all.py.

    Example: python -m benchmarks.start --repeats 3
    """

    repeats: int = 3
    """Times each command is run; the least counts."""
    finished: bool = True
    """Run a small study, and again when it is finished."""


def cpu_seconds(*arguments: str) -> float:
    """CPU seconds of a Python command and its children, run in the repository."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def commands() -> list[str]:
    """The file of every command, below the repository."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("[!_]*.py"))]
    return ["run_all.py", *(str(path.relative_to(ROOT)) for path in paths if "tyro" in path.read_text() or "script" in path.read_text())]


def main() -> None:
    options = tyro.cli(Start)
    measured = {}
    for command in commands():
        measured[f"{command} --help"] = min(cpu_seconds(command, "--help") for _ in range(options.repeats))
        print(f"{measured[f'{command} --help']:6.2f} s  {command} --help", flush=True)
    if options.finished:
        with tempfile.TemporaryDirectory() as folder:
            study = ("run_all.py", "--models", "blip-shapes", "--samples", "2", "--modules", "mlp", "--power-runs", "0", "--out", folder)
            measured["first run"] = cpu_seconds(*study)
            measured["finished run"] = min(cpu_seconds(*study) for _ in range(options.repeats))
        for name in ("first run", "finished run"):
            print(f"{measured[name]:6.2f} s  {name} of {' '.join(study[:-2])}")
    print(json.dumps({name: round(seconds, 3) for name, seconds in measured.items()}))


if __name__ == "__main__":
    main()
