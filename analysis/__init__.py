"""From files of effects to findings: universal heads, what each head does, figures, one report.

A file directly in this folder is a command: `find(results, options)` computes, `write(results, options)` writes too. `products` says what
each file is made of. Nothing needs torch or nnsight: the analysis works from the files alone, on a laptop.
"""
