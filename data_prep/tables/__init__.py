"""What the readers of all data sets share: the sample schema, preparing, images, downloads."""
