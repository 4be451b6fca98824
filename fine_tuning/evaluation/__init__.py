"""Measures the artifact that is served: GGUF files through llama.cpp, never the training-time model."""
