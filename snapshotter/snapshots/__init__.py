"""containerd's Snapshots service: overlayfs for ordinary layers, models in their place.

Knows of a model its reference and the directory that shows it, see
:mod:`~snapshotter.snapshots.models`; nothing of registries, caches or FUSE.
"""
