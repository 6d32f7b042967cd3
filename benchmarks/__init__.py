"""What the program costs: time, arithmetic and memory. Each file is a command; `README.md` has the results."""
