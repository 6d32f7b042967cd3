"""Which heads matter: effects of heads -> rules, tables, overlap, power (see `universal_heads`, `robust_heads`, `stability`)."""
