"""A study: a model, a data set and options. Chooses samples, asks the model for answers, and gives the configuration of files."""
