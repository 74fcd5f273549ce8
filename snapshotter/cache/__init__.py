"""What is on the disk: one sparse file per blob and which parts of it are there.

Knows digests, bytes and files; nothing of registries, models or who reads.
"""
