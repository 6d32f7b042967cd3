"""Effects of whole modules -> maps, peaks, shares of layers, tables (see `modules`)."""
