"""The HTTP and WebSocket interface (its rooms: app, security, schemas, static)."""
