"""What surrounds the W&B client: its key, whether the service answers, how long to wait, and what is sent to it.

W&B shows shallow configs, flat numbers and artefacts; no key may be among them.
"""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from raykd.tracking.events import Event
from raykd.tracking.jsonl import plain

CLOUD = "https://api.wandb.ai"
_SERVER_ERROR = 500
ArtefactKind = Literal["teacher", "targets", "student"]
_MOST_LEVELS = 4
_LONGEST_LIST = 16
_HIDDEN = "***"


@dataclass(frozen=True)
class Artefact:
    """One version of something made; two with the same files are the same to W&B.

    Attributes:
        name: of its kind and content, so that it means the same in every run.
        kind: W&B's type of artefact.
        files: name -> file that is uploaded.
        references: name -> file that stays where it is; W&B gets its path and checksum.
        metadata: shown beside it.
        made_from: names of the artefacts that it was made from.
    """

    name: str
    kind: ArtefactKind
    files: Mapping[str, Path] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How long a run waits for W&B, and for how much.

    Only the waiting in `close` costs time; everything else happens in parallel to the run.

    Attributes:
        answer_timeout_s: for the first answer of the service.
        init_timeout_s: for a run to open.
        finish_timeout_s: at the end, for the rest to be written or sent.
        patience_s: at the end an online run is waited for this long, or for `patience_fraction` of the
            run's duration if that is more; one that has not opened yet, this long after its start.
        patience_fraction: see above; also the longest silence of a service that has answered before.
        waiting_rows: rows that may be queued; more are dropped, and counted.
    """

    answer_timeout_s: float = 3.0
    init_timeout_s: float = 20.0
    finish_timeout_s: float = 10.0
    patience_s: float = 6.0
    patience_fraction: float = 0.01
    waiting_rows: int = 10_000


def unanswered(url: str, timeout_s: float) -> str | None:
    """Why the service does not answer; None if it answers, even with a refusal.

    The request has no key, so that none is sent to a wrong address.

    Args:
        url: of the service.
        timeout_s: for an answer.
    """
    request = urllib.request.Request(url)  # noqa: S310 - W&B itself accepts only http and https
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}" if error.code >= _SERVER_ERROR else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{url}: {reason}"


def has_key() -> bool:
    """Whether W&B would find a key without a prompt: in the environment or the netrc file."""
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
    """Texts that must never be shown or sent."""
    key = os.environ.get("WANDB_API_KEY")
    return (key,) if key else ()


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping, each with its path `a/b/c`."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of a nested mapping under `a/b/c`; text, null and long lists are left out."""
    numbers: dict[str, float] = {}
    for name, value in _leaves(values, prefix):
        if isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
            numbers |= flat_numbers({str(i): inner for i, inner in enumerate(value)}, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = value
    return numbers


def epoch_row(event: Event) -> dict[str, float]:
    """The history row of an epoch: `<fit>/<metric>`, with `<fit>/epoch` as the x axis."""
    values = {key: value for key, value in event.values.items() if key != "epochs"}
    numbers = flat_numbers(plain(values), f"{event.fit}/")
    if event.step is not None:
        numbers[f"{event.fit}/step"] = event.step
    return {**numbers, f"{event.fit}/epoch": event.epoch or 0}


def shallow(config: Mapping[str, Any], *, secrets: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config nested at most 4 levels; deeper keys are joined by "/".

    Lists of mappings become mappings, by `name` where every entry has its own, else by index, so that
    runs can be compared by them. Secrets are masked everywhere.
    """
    masked = _masked(plain(config), tuple(secret for secret in secrets if secret))
    nested: dict[str, Any] = _nested(_by_name(masked), _MOST_LEVELS)
    return nested


def _by_name(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _by_name(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        names = [inner.get("name") for inner in value]
        unique = len(set(map(str, names))) == len(names) and None not in names
        keys = names if unique else range(len(value))
        return {str(key): _by_name(inner) for key, inner in zip(keys, value, strict=True)}
    return value


def _nested(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if depth == 1:
        return dict(_leaves(value))
    return {
        key: _nested(inner, depth - 1) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
    }


def _masked(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {_masked(key, secrets): _masked(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, secrets) for inner in value]
    return mask(value, secrets) if isinstance(value, str) else value


def mask(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN) if secret else text
    return text
