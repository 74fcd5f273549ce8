"""Mounts CNCF ModelPack models in containers at once and brings their bytes while they are read."""

from importlib.metadata import version

__version__ = version("modelpack-snapshotter")
