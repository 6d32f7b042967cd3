"""Data sets -> tables of samples: a clean and a corrupt image, a two-choice question, and its two answers.

`samples` is the schema that every later stage reads; `preparing` is what the readers of all data sets share, `images` opens image files,
`tables` text tables. `shapes` renders the shipped data set (scenes of `scenes`, questions of `questions`); `pairs` and `attribute_folder`
read data of your own; each published data set has a module. `pseudo_masks` and `select_samples` make tables from tables. `README.md` says
where each data set comes from and how to read it.
"""
