"""Where samples are measured: in this process, by Ray's workers, or on a remote host."""
