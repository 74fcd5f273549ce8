"""Talking to registries: references, hosts.toml, credentials, manifests, ranged reads, uploads.

Speaks the OCI distribution specification v1.1. Knows digests and descriptors;
must not know what a manifest says, what a model is, or who asks for bytes.
"""
