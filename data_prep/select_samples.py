"""The command that selects samples has moved: this prints the new one, and exits with status 2."""

import sys


def main() -> None:
    """Command line."""
    print("samples are selected by `python -m interventions.select_samples`, with the same options", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
