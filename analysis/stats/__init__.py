"""Statistics that no analysis owns: resampling, sign flips, permutations."""
