"""Find private details in a text: one module per kind of detail."""
