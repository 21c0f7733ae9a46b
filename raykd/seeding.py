"""Seeds derived from one seed by name, so that no two uses of randomness share a stream."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A seed for the use that `names` describe: the same for the same names, unrelated otherwise.

    Args:
        seed: the recipe's seed.
        names: what the stream is for, e.g. `derive(seed, "student", replica)`.

    Returns:
        An integer in [0, 2^63).
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
