"""Build and push: a directory of model files becomes a ModelPack artifact in a registry.

Bytes are never copied: a build writes down where each blob's bytes are, and a
push streams them from there. Prints nothing and knows nothing of mounts.
"""
