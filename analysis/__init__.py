"""Files of effects -> findings: universal heads, head functions, maps of modules, claims, figures, one report.

A file directly in this folder is a command: `find(results, options)` computes, `write(results, options)` also writes. `products` lists all
files of a results folder, with the command that makes each. No file of this package needs torch or nnsight.
"""
