"""Log conversations, clean them, and export them.

The log keeps what was said unchanged; only the text that goes into training is cleaned.
"""
