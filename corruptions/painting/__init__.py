"""Shared by the corruptions that paint images: a diffusion model, and a folder of painted images."""
