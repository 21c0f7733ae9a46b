"""The W&B service as seen from here: where its key is found, and whether it answers at all."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = "https://api.wandb.ai"
_SICK = 500


def unanswered(url: str, timeout_s: float) -> str | None:
    """Why the service does not answer; None where it does, even if only to refuse.

    Asked without a key, so that none is sent to whatever answers there.

    Args:
        url: of the service.
        timeout_s: longest silence.
    """
    request = urllib.request.Request(url)  # noqa: S310 - W&B itself accepts only http and https
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}" if error.code >= _SICK else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{url}: {reason}"


def has_key() -> bool:
    """Whether W&B would find a key without asking: in the environment or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    candidates = [given] if given else ["~/.netrc", "~/_netrc"]
    hosts = {urlsplit(os.environ.get("WANDB_BASE_URL") or CLOUD).netloc, urlsplit(CLOUD).netloc}
    for candidate in candidates:
        path = Path(candidate).expanduser()
        try:
            known = netrc.netrc(path).hosts
        except (OSError, netrc.NetrcParseError):
            continue
        return any(host in known and known[host][2] for host in hosts)
    return False


def secrets() -> tuple[str, ...]:
    """What must not be told to anybody."""
    key = os.environ.get("WANDB_API_KEY")
    return (key,) if key else ()
