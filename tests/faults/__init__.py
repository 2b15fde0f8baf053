"""What goes wrong with files, memory, disks and processes, provoked: each test carries the fault it stands for.

The marks are the rows of docs/reliability.md, whose table ``python benchmarks/faults.py`` writes.
"""
