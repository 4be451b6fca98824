"""From cleaned conversations to token rows: formats, the engine's own rendering, the split."""
