"""Where in an image things are, and of which class."""
