"""Transfer sets: samples without labels that are made of a recipe's own, or brought from another source."""
