"""From an adapter to a live tag: GGUF export, Modelfile, registration, switching."""
