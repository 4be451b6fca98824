"""The engines that serve the models: the real Ollama, or an embedded llama.cpp if no Ollama runs.

Both implement `base.Engine`.
"""
