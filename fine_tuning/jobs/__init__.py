"""Jobs that outlive their caller: a table (store), a queue, one process per job (worker), a Python API (tuner)."""
