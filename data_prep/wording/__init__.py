"""Questions in plain English: inflection, data sets' own wordings, rephrasing."""
