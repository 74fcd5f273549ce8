"""The demo: a container whose model is there at once, beside an ordinary pull of the same bytes."""

import signal

# Until there is something to clean up, Ctrl-C ends us at once, also amid imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)
