"""The slow, obvious path of every method, which fast paths are held against."""
