"""The demo: a container whose model is there at once, beside an ordinary pull of the same bytes."""
