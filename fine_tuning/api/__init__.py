"""The HTTP API: all that people can do, for programs. `app` joins the routes, `security` is the door before them."""
