"""The page on data sets: its commands are those of the code, and its snippets are Python."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

PAGE = (Path(__file__).resolve().parents[2] / "data_prep" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m (data_prep\.\w+) ([^#\n]*)", PAGE, re.MULTILINE)
COMMANDS += [("data_prep.attribute_folder", options) for options in re.findall(r"\| `(--source [^`]*)` \|", PAGE)]


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_options(module, options):
    name = module.removeprefix("data_prep.").replace("_", "")
    kinds = vars(importlib.import_module(module)).values()
    (kind,) = [k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k) and k.__name__.lower() == name]
    assert dataclasses.is_dataclass(tyro.cli(kind, args=shlex.split(options)))


def test_every_reader_of_the_table_has_a_command_and_every_snippet_compiles():
    readers = set(re.findall(r"^\| [^|]+ \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert len(readers) > 5
    assert {f"data_prep.{name}" for name in readers - {"shapes", "svo_probes"}} <= {module for module, _ in COMMANDS}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(snippet, "README.md", "exec")
