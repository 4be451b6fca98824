"""Turn a trained adapter into a served model: GGUF export, registration in the engine, switching, pruning, sharing."""
