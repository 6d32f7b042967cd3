"""Masks of the things asked about, guessed where a table has none (see `data_prep.pseudo_masks`)."""
