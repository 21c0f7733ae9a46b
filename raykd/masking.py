"""What secrets are called and what they look like: what is found is refused, or written as `***`."""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRET_NAME = re.compile(
    r"(^|_)(KEY|KEY_ID|APIKEY|TOKEN|SECRET|SECRETS|CREDENTIALS?|PASS|PAT|SAS|DSN|CONN(ECTION)?_?STR(ING)?)$|"
    r"PASSWORD$|PASSWD$|PASSPHRASE$|_PWD$|"
    r"(^|_)(DATABASE|DB|POSTGRES(QL)?|PG|MYSQL|MARIADB|MONGO(DB)?|REDIS|AMQP|RABBITMQ|CELERY_BROKER|BROKER|SQLALCHEMY\w*)_UR[IL]$"
)
"""Names, in capital letters, of what is secret."""
SECRET_VALUE = re.compile(
    r"\w://[^/\s:@]*:[^/\s@]+@|(?i:\b(password|pwd|accountkey|sharedaccesskey|sharedaccesssignature)=[^;\s&]{4})|"
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\b(ghp|gho|ghs|github_pat|glpat|hf|xox[abp])[-_]\w{20}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""What only a secret looks like: a password in an address, a connection string, keys of clouds."""
LEAST_SECRET = 8
"""Characters; a shorter value is found by chance."""
MASK = "***"
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(-----END [A-Z ]*-----|\Z)", re.DOTALL)
_WHOLE_VALUE = re.compile(rf"(?:{SECRET_VALUE.pattern})[^\s;&\"']*")
_ASSIGNED = re.compile(
    r"""(\b[A-Za-z]\w*)(["']?\s?[=:]\s?)("[^"\n]*"|'[^'\n]*'|[^\s"',;&(){}\[\]]+)"""
)
_OPTION = re.compile(r"""(--[A-Za-z][\w-]*)(\s+)("[^"\n]*"|'[^'\n]*'|[^\s"'-][^\s"']*)""")
"""`--token x`, as on a command line."""
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)([A-Za-z0-9._~+/=-]{8,})")
"""Of a header of HTTP."""
_PLAIN_NAME = "KEY"


def mask(text: str, environ: Mapping[str, str]) -> str:
    """A text without the secrets in it.

    Args:
        text: of a log.
        environ: values of its variables that are called like secrets are masked wherever they stand.
    """
    values = {
        value
        for name, value in environ.items()
        if SECRET_NAME.search(name.upper()) and len(value) >= LEAST_SECRET
    }
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        text = text.replace(value, MASK)
    text = _WHOLE_VALUE.sub(MASK, _PRIVATE_KEY.sub(MASK, text))
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _OPTION.sub(_masked, _ASSIGNED.sub(_masked, text))


def _masked(found: re.Match[str]) -> str:
    """`NAME=value` or `--name value` where the name is one of a secret."""
    name = found[1].lstrip("-").replace("-", "_").upper()
    if name == _PLAIN_NAME or not SECRET_NAME.search(
        name
    ):  # `key=student.model` says what is wrong
        return found[0]
    quote = found[3][0] if found[3][0] in "\"'" else ""
    return f"{found[1]}{found[2]}{quote}{MASK}{quote}"
