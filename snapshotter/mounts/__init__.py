"""A mounted model: files of an artifact, bytes from the cache, served through fuse/.

Knows models and mount points; nothing of containerd, snapshots or images.
"""
