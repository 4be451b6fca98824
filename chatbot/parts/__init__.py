"""Draw what several pages share."""
