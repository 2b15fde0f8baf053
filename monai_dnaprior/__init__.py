"""Self-supervised denoising of medical images, as MONAI transforms and bundles. Not a medical device.

The public names, and the modules that the bundles name, stand in ``__init__.pyi``. Each is imported when it is first
used, so that reading a file, or refusing one, does not wait for torch and MONAI.
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
