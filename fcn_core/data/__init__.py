"""Where samples come from, and in what order."""
