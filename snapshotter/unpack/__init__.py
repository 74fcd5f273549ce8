"""Compressed layers: decompressed once, as a stream, into a file that is read while it grows.

Knows blobs, fetching and tar headers; nothing of manifests, mounts or containers.
"""
