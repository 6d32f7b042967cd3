"""The papers' claims, each judged from a results folder alone.

`table` has one entry per claim; `claim` defines an entry. `subject` reads what a claim is tested on; `outcome` says what the results show.
The judges are in `layers`, `largest`, `universal`, `functions` and `effects`.
"""
