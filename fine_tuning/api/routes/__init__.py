"""The routes under /api: one module per subject, each with a `router`."""
