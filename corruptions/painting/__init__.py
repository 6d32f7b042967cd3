"""What corruptions that paint images share: a diffusion model, and a folder of painted images."""
