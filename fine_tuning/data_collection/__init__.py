"""What people said: logged, cleaned, exported. The log keeps what was said; only training text is cleaned."""
