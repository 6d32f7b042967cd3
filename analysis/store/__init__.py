"""The results folder: reading files of effects, writing tables and NetCDF files."""
