"""Vectors whose cosines say what is alike, learnt from teachers' vectors and without labels."""
