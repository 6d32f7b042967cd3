"""The same effects compared under several corruptions (see `compare_corruptions`)."""
