"""The log of conversations: its file, its lines, and the index in data/state.db that answers queries about it."""
