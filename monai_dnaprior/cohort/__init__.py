"""Denoise the files of one scan, of many, or of many on a cluster.

A run can be interrupted at any moment and goes on where it stopped; a scan that fails stops no other.
"""
