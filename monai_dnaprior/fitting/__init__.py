"""Fit a network to one image: the networks, the losses, the loop of optimisation steps and when it stops.

Nothing here knows of methods, volumes or files; many fits are made at once, in threads on a CPU, in one batch on an
accelerator.
"""
