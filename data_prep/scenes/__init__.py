"""Rendered scenes: drawing them, questions about them, partners, the small models trained on them."""
