"""How each intervention script works: its cells, how a pair is measured where the weights are, and the file it writes."""
