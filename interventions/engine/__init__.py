"""Pairs -> measurements: states are captured, and many patched runs share a trace."""
