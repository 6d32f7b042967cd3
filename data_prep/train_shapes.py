"""Train the two small models of `checkpoints/` on rendered scenes, on two CPU cores, in under 40 minutes each.

The vision tower first learns to name what each patch shows (foreground, colour, shape, texture, size); then the whole model learns
two-choice questions while the first loss stays on. Without that warm-up the questions stay at chance. BLIP is polished on questions alone.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro

from data_prep.scenes.training_options import PRESETS
from data_prep.tables.command import reporting


def main() -> None:
    """Command line."""
    with reporting("data_prep.train_shapes"):
        training = tyro.extras.overridable_config_cli(PRESETS)
        from data_prep.scenes.training import train  # loads torch: not before --help

        train(training)


if __name__ == "__main__":
    main()
