"""The routes under /api: one module a subject, each with a `router`."""
