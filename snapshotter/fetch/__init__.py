"""Which bytes come next, and bringing them: demand, readahead, background completion.

Knows blobs, ranges and origins; nothing of files, manifests, mounts or containers.
"""
