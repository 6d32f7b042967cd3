"""The page on data sets: its commands are those of the code, and its snippets are Python."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import tyro

from data_prep.__main__ import main as listing
from data_prep.masks.options import PseudoMasks
from data_prep.tables.readers import all_readers

PAGE = (Path(__file__).resolve().parents[2] / "data_prep" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m (data_prep\.\w+) ([^#\n]*)", PAGE, re.MULTILINE)
COMMANDS += [("data_prep.attribute_folder", options) for options in re.findall(r"\| `(--source [^`]*)` \|", PAGE)]


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_options(module, options):
    kind = {f"data_prep.{name}": reader.options for name, reader in all_readers().items()} | {"data_prep.pseudo_masks": PseudoMasks}
    assert dataclasses.is_dataclass(tyro.cli(kind[module], args=shlex.split(options)))


def test_every_reader_is_in_the_table_with_its_own_words_and_has_a_command_and_every_snippet_compiles():
    rows = set(re.findall(r"^\| [^|]+ \| `\w+` \|.*$", PAGE, re.MULTILINE))
    assert rows == {reader.row for reader in all_readers().values()}
    assert {f"data_prep.{name}" for name in all_readers()} <= {module for module, _ in COMMANDS}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(snippet, "README.md", "exec")


def test_python_m_data_prep_lists_them_all(capsys):
    listing()
    said = capsys.readouterr().out
    assert len(all_readers()) >= 11
    assert all(f"python -m data_prep.{name}\n" in said for name in all_readers())
