"""What the pages, the API and the command line share: which model answers (ollama_integration), and
learning.
"""
