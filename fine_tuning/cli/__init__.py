"""The `byoai` command: one module for each group of commands.

Only this package prints results, asks the user and ends the program.
"""
