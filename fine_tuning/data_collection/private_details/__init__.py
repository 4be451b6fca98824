"""Find each kind of private detail in a text."""
