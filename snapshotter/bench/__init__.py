"""`modelpack bench`: the instrument that says how fast models are read here, and against what.

Everything it needs it starts itself, on loopback and in a temporary place: a registry, a
forwarder that makes round trips, models, a node (our own rooms up to mounts, in a process of
its own), and readers in further processes. Baselines run beside every case, interleaved.

From the declarative to the concrete: `cases/` says what is compared, `runner` runs it, `stage`
holds what the cases need, `children/` are the programs in other processes, `results` is what
comes out, and `terminal`, `html` and `plots` show it.
"""
