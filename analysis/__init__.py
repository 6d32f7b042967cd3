"""From files of effects to findings: universal heads, what each head does, figures, one report.

Every stage takes a results folder and adds to it, in this order: `universal_heads.write`, `head_functions.write`,
`figures.write`, `report.write`. Nothing here imports torch or nnsight: it works from the files alone, on a laptop.
"""
