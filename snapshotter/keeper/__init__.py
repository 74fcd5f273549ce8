"""A tiny process that holds what must not be closed while the daemon is replaced.

It keeps open files, the descriptors of /dev/fuse among them, with a few bytes beside each
that it does not read: a daemon that was killed or upgraded finds in them what its
predecessor served. ``server`` and ``shelf`` are that process, of the standard library alone;
``link`` and ``keeping`` are the daemon's side.
"""
