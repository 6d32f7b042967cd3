"""The results folder as the analysis reads and writes it."""
