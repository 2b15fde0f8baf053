"""Methods side by side on the same noisy images: a table, a picture, a plot.

``cases`` reads the images, ``run`` runs the methods, ``table`` and ``figures`` show what came out.
"""
