"""Mathematics of boxes: overlap, moves, suppression, fusion, fixed locations, average precision.

Boxes are rows (x1, y1, x2, y2) in pixels of their image, x to the right and y down. Pixel column i is the interval
[i, i + 1], so an image of width W has the box (0, 0, W, H) and its flip takes x to W − x.
"""
