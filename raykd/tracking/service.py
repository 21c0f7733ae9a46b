"""The W&B service as seen from here: where its key is, whether it answers, and how long it is waited for."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

CLOUD = "https://api.wandb.ai"
_SICK = 500


@dataclass(frozen=True)
class Limits:
    """How long and how much W&B may keep a run waiting.

    Only what `close` waits for is time lost; all else happens beside the run.

    Attributes:
        answer_timeout_s: longest silence of the service when it is asked whether it is there.
        init_timeout_s: longest time for a run to open.
        finish_timeout_s: longest wait, at the end, for what is left to be written or sent.
        patience_s: a service, as against a file, is waited for at the end only so long, or
            `patience_fraction` of the time that the run took, whichever is more; one that has not opened
            the run yet, only so long after the start.
        patience_fraction: see above; also bounds the silence of a service that was there before.
        waiting_rows: rows that may wait to be handed over; more are left out, and counted.
    """

    answer_timeout_s: float = 3.0
    init_timeout_s: float = 20.0
    finish_timeout_s: float = 10.0
    patience_s: float = 6.0
    patience_fraction: float = 0.01
    waiting_rows: int = 10_000


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
