"""Serve models by an engine: an Ollama server, or an embedded llama.cpp if no Ollama answers.

Both engines implement `base.Engine`. This package also reads and writes GGUF files.
"""
