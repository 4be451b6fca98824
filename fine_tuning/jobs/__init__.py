"""Run long work as jobs, which outlive the program that submits them.

A job is a row of a table (store). The queue starts each job in a process of its own (worker).
Programs use jobs through the Python API (tuner).
"""
