"""Evaluate models in the form in which they are served: GGUF files in llama.cpp, never the PyTorch network."""
