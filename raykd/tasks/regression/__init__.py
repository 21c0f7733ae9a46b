"""One value."""
