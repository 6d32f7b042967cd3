"""Corruptions: sample -> clean/corrupt pair of model inputs, which differ in one modality. One file each; `base` has the registry."""
