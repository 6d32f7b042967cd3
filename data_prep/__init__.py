"""Data sets -> tables of samples: a clean and a corrupt image, a two-choice question, and its two answers.

A file directly in this folder is a command. `shapes` renders the shipped data set; `pairs` and `attribute_folder` read your own data; each
published data set has a reader; `pseudo_masks` adds masks to a table. `tables` holds the sample schema, which every later stage reads, and
what all readers share; `scenes` renders; `wording` makes questions. `README.md` says where each data set comes from and how to read it.
"""
