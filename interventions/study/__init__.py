"""A model, a data set and options: samples are chosen, answers asked, pairs measured and files written."""
