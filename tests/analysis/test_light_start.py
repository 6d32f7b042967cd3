"""The commands of the analysis show their help before any library of science is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "nnsight", "xarray", "pandas", "scipy", "matplotlib", "plotly", "netCDF4")


@pytest.mark.parametrize("command", ["figures", "head_functions", "products", "report"])
def test_a_command_loads_no_library_before_it_reads_a_file(command):
    program = f"import sys, analysis.{command}; print([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_tests_of_the_analysis_load_no_torch():
    program = "import sys, pytest; pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/analysis']); "
    program += "print('loaded', [name for name in ('torch', 'nnsight', 'transformers') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.rstrip().endswith("loaded []")
