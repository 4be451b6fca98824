"""Work that outlives its window: a table of jobs (store), a queue, one process a job (worker), and
the face for programs (tuner).
"""
