"""Data sets -> tables of samples: a clean and a corrupt image, a two-choice question, and its two answers.

`samples` is the schema that every later stage reads; `images` opens image files; `shapes` renders the shipped data set (scenes of
`scenes`, questions of `questions`); `pairs` reads a table of your own.
"""
