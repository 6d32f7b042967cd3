"""From files of effects to findings: universal heads, what each head does, figures, one report.

Every command takes a results folder and adds to it: `find(results, options)` computes, `write(results, options)` writes too. `products` says
what each makes, of what, and in which order. Nothing here imports torch or nnsight: it works from the files alone, on a laptop.
"""
