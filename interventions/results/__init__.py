"""The results folder: the schema of effects, metrics, parts of unfinished files, the manifest."""
