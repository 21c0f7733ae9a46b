"""One of several actions in each state."""
