"""What serves the models: the real Ollama, or an embedded llama.cpp where no Ollama is there. Both speak `base.Engine`."""
