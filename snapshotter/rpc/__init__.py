"""gRPC's server side on a unix socket, for a service that many call at once and quickly.

Knows HTTP/2 and gRPC's framing; nothing of services, messages or snapshots. Why not
grpcio's own server: it hands every call to a thread, and at sixteen clients the calls of
a snapshotter then wait for threads rather than for the disk. Here one thread reads and
writes all connections, and whoever has an answer hands it over.
"""
