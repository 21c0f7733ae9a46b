"""Small models to teach and to be taught, for images from 8×8 pixels up and for vectors."""
