"""From pairs to measurements: captured states, patched runs, many in one trace."""
