"""READMEs: every file, module, command and option that they name exists, and their prose is wrapped at 100 columns."""

import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import tyro

import interventions
from data_prep.masks.options import PseudoMasks
from data_prep.tables.readers import all_readers

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/README.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "tests/golden/README.md"]
READMES = [page for page in PAGES if page.name == "README.md"]
FOLDERS = ("analysis", "benchmarks", "checkpoints", "corruptions", "data_prep", "docs", "interventions", "recipes", "tests")
BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"python (-m (?P<module>[\w.]+)|run_all\.py)(?P<words>[^`]*)")


pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # of commands without `main`, which run as scripts


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def spans(page: Path) -> list[str]:
    """What stands in backquotes outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", page.read_text(encoding="utf-8")))]


def commands(page: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The Python commands of a page: module and words; placeholders are a model, of alternatives the first is taken."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()] + spans(page)
    for part in (part for line in lines for part in line.split("&&")):
        if command := COMMAND.search(part):
            words = re.sub(r"\{(.*?),.*?\}", r"\1", re.sub(r"<[^>]*>", "blip-shapes", command["words"]))
            yield command["module"] or "run_all", tuple(shlex.split(words, comments=True))


COMMANDS = sorted({command for page in PAGES for command in commands(page)})


def run_options(module: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line of a command, and end it there; SystemExit where it is refused."""

    class Read(BaseException):
        """Options are read."""

    def stopping(original):
        def read(*arguments, **keywords):
            raise Read(original(*arguments, **keywords))

        return read

    readers = {f"data_prep.{name}": reader.options for name, reader in all_readers().items()} | {"data_prep.pseudo_masks": PseudoMasks}
    if module in readers:
        tyro.cli(readers[module], args=words)
        return
    module = f"{module}.__main__" if find_spec(module).submodule_search_locations else module
    with monkeypatch.context() as patched:
        patched.setattr(tyro, "cli", stopping(tyro.cli))
        patched.setattr(tyro.extras, "subcommand_cli_from_dict", stopping(tyro.extras.subcommand_cli_from_dict))
        patched.setattr(sys, "argv", [module, *words])
        main = getattr(importlib.import_module(module), "main", partial(runpy.run_module, module, run_name="__main__"))
        with pytest.raises(Read):
            main()


@pytest.mark.parametrize(("module", "words"), COMMANDS, ids=lambda part: part if isinstance(part, str) else " ".join(part)[:40])
def test_a_command_that_a_readme_prints_is_one_that_the_program_reads(module, words, monkeypatch):
    if module == "pytest":
        assert " ".join(["step python -m pytest", *words]) in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    elif words and words != ("--help",):
        run_options(module, words, monkeypatch)
    else:
        assert find_spec(module)


def test_an_option_that_a_readme_names_is_one_of_some_command(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    for module in sorted({module for module, _ in COMMANDS} - {"pytest", "tests.support.oracle_table", "data_prep"}):
        with pytest.raises(SystemExit):
            run_options(module, ("--help",), monkeypatch)
    known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    named = {name for page in PAGES for span in spans(page) if span.startswith("--") for name in re.findall(r"--[a-z][\w.-]*", span)}
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_file_or_module_that_a_readme_names_exists(page):
    text = page.read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    named = [
        span
        for span in spans(page)
        if re.fullmatch(r"\.?[\w./-]+", span)
        and (re.search(r"\.(py|sbatch|ipynb|js)$|^requirements.*\.txt$", span) or (span.split("/")[0] in FOLDERS and "/" in span))
    ]
    named += re.findall(r"(?<!\S)requirements[\w-]*\.txt", text)
    assert [name for name in (*linked, *named) if not ((page.parent / name).exists() or (ROOT / name).exists())] == []
    modules = [span for span in spans(page) if re.fullmatch(rf"({'|'.join(FOLDERS)})(\.\w+)+", span)]
    assert [name for name in modules if not find_spec(name)] == []


def test_the_map_of_folders_names_all_of_them_and_no_other():
    rows = re.findall(r"^\| (`\w+/`.*?) \| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    tops = [re.findall(r"`(\w+)/`", folders) for folders, _ in rows]
    assert sorted(name for names in tops for name in names) == sorted(FOLDERS)
    for names, contents in zip(tops, (contents for _, contents in rows), strict=True):
        inside = re.findall(r"`([\w/]+)/`", contents)
        assert [name for name in inside if not any((ROOT / top / name).is_dir() for top in (*names, "."))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_a_readme_compiles_and_uses_public_names(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        assert set(re.findall(r"\binterventions\.([A-Za-z]\w*)", block)) - {"results"} <= set(dir(interventions))


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_prose_in_a_readme_are_at_most_100_columns_wide(page):
    prose = BLOCK.sub("", page.read_text(encoding="utf-8")).splitlines()
    assert [line for line in prose if len(line) > 100 and not re.match(r"\s*\||\[[^]]+\]: ", line)] == []


def test_the_table_of_scripts_lists_all_of_them():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "interventions" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "interventions").glob("*.py") if path.stem != "__init__")
