"""How containerd gets to know a model.

Direct lookup of image volumes, the stub image, the mirror endpoint that serves
stubs to clients which pull, and the puller that writes them itself.
"""
