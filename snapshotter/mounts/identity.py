"""What makes two mounts one: the same manifest, and the same choice of its files. Pure."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from snapshotter.artifact.choice import encode_choice
from snapshotter.artifact.digest import Digest, encoded
from snapshotter.artifact.selection import Selection

_LENGTH = 16


class Identity(NamedTuple):
    """Of a mount. Registry and repository are not part of it: the bytes are the same."""

    digest: Digest
    asked: Selection
    """What who mounts it asked for; it is released by that."""
    chosen: Selection
    """What it shows: that, less what the node left out when it was mounted."""

    @property
    def name(self) -> str:
        """Of its directory: the manifest's digest, and more where not everything is shown."""
        if not (self.asked or self.chosen):
            return encoded(self.digest)
        choice = f"{encode_choice(self.asked)}\n{encode_choice(self.chosen)}"
        return f"{encoded(self.digest)}-{hashlib.sha256(choice.encode()).hexdigest()[:_LENGTH]}"
