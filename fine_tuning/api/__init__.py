"""The HTTP API for programs. `app` assembles the routes; `security` checks every request before them."""
