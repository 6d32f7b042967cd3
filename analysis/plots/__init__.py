"""Figures: the shared style, and one file for each kind of figure that `figures` draws."""
