"""Noise: models that add it, what can be measured of it in a noisy image, and how its bias is taken away.

Units are those of the image throughout; the metrics that say how near an image is to another stand here too.
"""
