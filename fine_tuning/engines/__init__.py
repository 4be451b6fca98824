"""The engines that serve models: an Ollama server, or an embedded llama.cpp if no Ollama runs.

Both implement `base.Engine`.
"""
