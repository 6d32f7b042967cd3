"""Statistics that several analyses share: resampling, sign flips, permutations, multiple tests."""
