"""The HTTP API for programs: routes under /api, and OpenAI's under /v1.

`app` assembles the routes; `security` checks every request before a route gets it.
"""
