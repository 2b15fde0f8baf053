"""Denoising in MONAI chains and bundles: a volume in its own units, slice by slice.

Array and dictionary transforms as MONAI names them, inferers for bundles, and what is done where memory does not
suffice.
"""
