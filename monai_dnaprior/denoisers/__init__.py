"""The methods: the list of them, one file a method, and what every denoiser takes and gives.

A denoiser maps images (B, C, H, W) of intensities about [0, 1] to a result; units, volumes and files are the business
of other folders.
"""
