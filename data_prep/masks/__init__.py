"""Masks of the objects asked about, predicted by a model where a table has none (see `data_prep.pseudo_masks`)."""
