"""The routes under /api: one module per subject, each of which defines a `router`."""
