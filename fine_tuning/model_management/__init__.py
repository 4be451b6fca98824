"""Turn an adapter into a model that answers: GGUF export, Modelfile, registration, switching."""
