"""Real containerd, runc and registry: the demo, the integration tests and what both stand on."""
