"""Where in a text each kind of private detail stands."""
