"""What heads do: per-sample scores, the tests that name a function, agreement with effects, tables (see `head_functions`)."""
