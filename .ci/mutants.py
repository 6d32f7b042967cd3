"""Mutation testing of the engine and the corruptions: a random sample of mutants, each against the tests that cover its line.

Mutants are Cosmic Ray's. The work is done in copies of the checkout, one for each worker; this one is not changed. A mutant that no test
notices is printed as a difference of sources. Tests of a line run fastest first, until one fails or `--budget` seconds are spent.

    pip install -r requirements.txt -r requirements-mutation.txt && python .ci/mutants.py --mutants 200 --seed 0
"""

import argparse
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTATED = (
    *("interventions/engine/sweep.py", "interventions/engine/capture.py", "interventions/engine/plan.py"),
    *("interventions/models/packing.py", "interventions/results/roles.py", "interventions/results/effects.py"),
    "corruptions",
)
TESTS = ("tests/interventions/engine", "tests/interventions/results", "tests/interventions/study", "tests/corruptions")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=200, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="mutants under test at once")
    parser.add_argument("--budget", type=float, default=120, help="seconds of test time for each mutant, as measured without mutation")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"), help="file that receives every mutant with what became of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees = [_copy(Path(folder) / str(number)) for number in range(options.workers)]
        tests = covering_tests(trees[0])
        every = mutants(trees[0])
        sample = random.Random(options.seed).sample(every, min(options.mutants, len(every)))
        print(f"{len(every)} mutants, {len(sample)} drawn by seed {options.seed}", flush=True)
        idle = list(trees)

        def judge(mutant: dict) -> dict:
            tree = idle.pop()
            try:
                return mutant | try_mutant(tree, mutant, tests, options.budget)
            finally:
                idle.append(tree)

        with ThreadPoolExecutor(options.workers) as pool:
            judged = []
            for result in pool.map(judge, sample):
                judged.append(result)
                print(
                    f"{len(judged)}/{len(sample)} {result['outcome']}: {result['file']}:{result['line']} {result['operator']}", flush=True
                )
                options.out.write_text(json.dumps(judged, indent=1))
    print(dict(Counter(result["outcome"] for result in judged)))
    for result in judged:
        if result["outcome"] != "killed":
            print(f"\n{result['outcome']}\n{result['difference']}")


def _copy(folder: Path) -> Path:
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def covering_tests(tree: Path) -> dict[tuple[str, int], list[tuple[float, str]]]:
    """For each line of what is mutated, the tests that run it, with their seconds, fastest first."""
    sources = ",".join(sorted({str(Path(name).with_suffix("") if name.endswith(".py") else name) for name in MUTATED}))
    report = tree / "durations.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "--cov-context=test", "--cov-report="]
    command += [f"--cov={source.replace('/', '.')}" for source in sources.split(",")]
    plugin = tree / "recorded.py"
    plugin.write_text(
        "import json\nseconds = {}\n"
        "def pytest_runtest_logreport(report):\n    seconds[report.nodeid] = seconds.get(report.nodeid, 0) + report.duration\n"
        f"def pytest_sessionfinish():\n    json.dump(seconds, open({str(report)!r}, 'w'))\n"
    )
    subprocess.run(
        [*command, "-p", "recorded"], cwd=tree, check=True, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.DEVNULL
    )
    import coverage

    seconds = json.loads(report.read_text())
    data = coverage.CoverageData(basename=str(tree / ".coverage"))
    data.read()
    found: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for path in data.measured_files():
        name = str(Path(path).relative_to(tree.resolve()))
        for line, contexts in data.contexts_by_lineno(path).items():
            names = {context.split("|")[0] for context in contexts if context}
            found[name, line] = sorted((seconds.get(test, 0.0), test) for test in names)
    return found


def mutants(tree: Path) -> list[dict]:
    """Every mutant of `MUTATED`, by file, operator and occurrence."""
    from cosmic_ray.commands.init import _all_work_items

    paths = [path for name in MUTATED for path in ([tree / name] if name.endswith(".py") else sorted((tree / name).rglob("*.py")))]
    return [
        {
            "file": str(Path(mutation.module_path).relative_to(tree)),
            "line": mutation.start_pos[0],
            "operator": mutation.operator_name,
            "arguments": mutation.operator_args,
            "occurrence": mutation.occurrence,
        }
        for item in _all_work_items(paths, {})
        for mutation in item.mutations
    ]


def try_mutant(tree: Path, mutant: dict, tests: dict[tuple[str, int], list[tuple[float, str]]], budget: float) -> dict:
    """What becomes of a mutant: killed (a test fails), survived, or uncovered (no test runs its line); and how its source differs."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    path = tree / mutant["file"]
    before = path.read_text()
    operator = cosmic_ray.plugins.get_operator(mutant["operator"])(**mutant["arguments"])
    after = mutate_code(before, operator, mutant["occurrence"])
    difference = "".join(difflib.unified_diff(*(text.splitlines(True) for text in (before, after or before)), mutant["file"], n=2))
    chosen, spent = [], 0.0
    for seconds, test in tests.get((mutant["file"], mutant["line"]), []):
        if chosen and spent + seconds > budget:
            break
        chosen.append(test)
        spent += seconds
    if not chosen:
        return {"outcome": "uncovered", "difference": difference}
    path.write_text(after)
    started = time.time()
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen]
        run = subprocess.run(command, cwd=tree, capture_output=True, timeout=60 + 10 * spent, check=False)
        outcome = "survived" if run.returncode == 0 else "killed"
    except subprocess.TimeoutExpired:
        outcome = "killed"
    finally:
        path.write_text(before)
    return {"outcome": outcome, "difference": difference, "tests": len(chosen), "seconds": round(time.time() - started, 1)}


if __name__ == "__main__":
    main()
