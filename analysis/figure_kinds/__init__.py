"""The kinds of figures that `figures` draws, each from the files that it needs."""
