"""What a model artifact is: manifest in, list of files out.

Pure: no I/O, no clock, nothing of registries, disks or mounts.
"""
