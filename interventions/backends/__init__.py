"""Where samples are measured: in this process, by Ray workers, or on a remote host."""
