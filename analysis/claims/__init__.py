"""The papers' claims, each judged from a results folder alone.

`table` holds an entry for each claim and `claim` says what an entry is. `subject` reads what a claim is tested on, `outcome` says what
results show. The judges are in `layers`, `largest`, `universal`, `functions` and `effects`.
"""
