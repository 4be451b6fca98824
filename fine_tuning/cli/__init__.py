"""The `byoai` command: one module for each group of commands. Only this package prints, prompts and exits."""
