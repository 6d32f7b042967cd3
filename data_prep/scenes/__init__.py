"""Rendered scenes: drawing, questions, partners, and the training of the small models."""
