"""Questions in plain English: inflection, wording of single data sets, rephrasing."""
