"""The results folder: schema of effects, metrics, parts of unfinished files, manifest."""
