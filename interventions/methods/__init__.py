"""What each intervention script does: the cells it takes, how a pair is measured where the weights are, the file that is made of it."""
