"""Figures: the shared style, and one file per kind of figure that `figures` draws."""
