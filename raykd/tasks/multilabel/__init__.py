"""Several yes-or-no labels."""
