"""Models outside of containers: their files listed, read and copied to a directory.

Nothing here mounts anything or needs the daemon or root. Knows registries, the cache and how
layers are unpacked; nothing of containers, and nothing of terminals.
"""
