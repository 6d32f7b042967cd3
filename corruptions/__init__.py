"""Corruptions: a sample in, a clean/corrupt pair of model inputs out that differ in one modality. One file each; see `base`."""
