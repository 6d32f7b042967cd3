"""The papers' claims, each a function over a results folder alone that can come out either way.

`claim` says what a claim and its outcome are, `place` where it is tested; the other modules hold a paper's, or a subject's, claims each.
"""
