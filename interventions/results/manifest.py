"""`manifest.json` of a results folder: what ran, what was left out and why, and what later runs must know of earlier ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from interventions.results.store import read_json, write_text


def read_manifest(results: Path) -> dict[str, Any]:
    """What `manifest.json` says; empty where there is none."""
    path = results / "manifest.json"
    return read_json(path) if path.is_file() else {}


def update_manifest(results: Path, section: str, key: str, entry: Any) -> None:
    """Set one entry of `manifest.json`; safe among processes."""
    with FileLock(results / ".manifest.lock"):
        manifest = read_manifest(results)
        manifest.setdefault(section, {})[key] = entry
        write_text(results / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def note_finished(results: Path, path: Path, entry: Mapping[str, Any]) -> None:
    """Say that a results file was made, and of what."""
    update_manifest(results, "runs", str(path.relative_to(results)), {"status": "finished", **entry})


def note_not_run(results: Path, path: Path, reason: object) -> None:
    """Say that a results file is not made, and why."""
    update_manifest(results, "runs", str(path.relative_to(results)), {"status": f"not run: {reason}", "samples": 0})
