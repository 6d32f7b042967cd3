"""`import interventions` is light, and `dir` shows what there is."""

import subprocess
import sys

import pytest

import interventions
from interventions.models.sites import SITES
from tests.conftest import ROOT


def test_every_name_that_dir_shows_is_there():
    assert {"load", "open_results", "sites", "prepare", "patch_heads", "ablate_heads", "direct_effects"} <= set(dir(interventions))
    for name in dir(interventions):
        assert getattr(interventions, name) is not None
    assert interventions.sites is SITES
    assert all(callable(getattr(interventions, name)) for name in dir(interventions) if name not in ("sites", "__version__"))


def test_an_unknown_name_is_an_attribute_error_that_says_what_there_is():
    with pytest.raises(AttributeError, match="has no attribute 'patch_everything'; it has load, sites"):
        interventions.patch_everything  # noqa: B018


def test_scripts_and_verbs_do_not_hide_each_other():
    """A module that is imported becomes an attribute of the package: no verb may be called as one."""
    scripts = {path.stem for path in (ROOT / "interventions").iterdir()}
    assert not scripts & set(dir(interventions))


def test_importing_the_package_imports_no_library():
    program = "import sys; sys.path.insert(0, '.'); import interventions; print(*sorted(set(sys.modules) - sys.stdlib_module_names))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names <= {"__main__", "interventions"}
