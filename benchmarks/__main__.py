"""All benchmarks that need no GPU, one after the other."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks import corruptions, dtypes, engine, growth, interventions


@dataclass
class Benchmarks:
    """Time the engine, how its cost grows, the interventions beside patching, the corruptions, and other number formats.

    See benchmarks/README.md.

    Example: python -m benchmarks --out benchmarks/latest.json
    """

    out: Path | None = None
    """File for the JSON."""
    repeats: int = 3
    """Timed runs; the median counts."""


def main() -> None:
    options = tyro.cli(Benchmarks)
    rows = [asdict(row) for row in engine.run(engine.Engine(repeats=options.repeats))]
    print()
    rows += growth.run(growth.Growth(repeats=options.repeats))
    print()
    rows += [asdict(row) for row in interventions.run(interventions.Interventions())]
    print()
    rows += [asdict(row) for row in corruptions.run(corruptions.Corruptions())]
    print()
    dtypes.run(dtypes.Dtypes(samples=25, repeats=options.repeats))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
