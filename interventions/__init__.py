"""Pairs x sites -> effects. One script per kind of intervention; the models are wrapped in `interventions.models`."""

__version__ = "0.1.0"
