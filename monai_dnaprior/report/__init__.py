"""An HTML report on what was removed from a scan: pictures, numbers, and what they say.

It reads what a run left on the disk and changes nothing.
"""
