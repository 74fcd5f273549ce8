"""What a file of weights says of itself: which tensors lie where in it.

Pure, as artifact/ is: the indexers ask for bytes and are sent them, whoever drives one
knows where they come from. Nothing here knows of models, mounts or registries.
"""
