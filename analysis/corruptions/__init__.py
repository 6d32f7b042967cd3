"""The same effects under several corruptions, compared (see `compare_corruptions`)."""
