"""Secrets in logs are masked: by the variables that hold them, by their names, by their looks."""

from __future__ import annotations

import pytest

from raykd.masking import mask

_KEY = "-----BEGIN RSA PRIVATE KEY-----\nabc\ndef\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the value is canary-4711.", "the value is ***."),
        ("canary-4711-longer", "***"),
        ("tiny stays", "tiny stays"),
        ("postgres://me:hunter22@db/runs failed", "postgre*** failed"),
        ("AccountKey=abcdefgh+/==; more", "***; more"),
        ("AKIAABCDEFGHIJKLMNOP used", "*** used"),
        ("ghp_" + 36 * "x" + " used", "*** used"),
        (f"before\n{_KEY}\nafter", "before\n***\nafter"),
        ("before\n" + _KEY[:40], "before\n***"),
        ("WANDB_API_KEY=abc", "WANDB_API_KEY=***"),
        ("{'password': 'abc', 'epochs': 3}", "{'password': '***', 'epochs': 3}"),
        ("token: abc", "token: ***"),
        ('{"api_token": "two words"}', '{"api_token": "***"}'),
        ("run --api-token abcdef -v", "run --api-token *** -v"),
        ("run --token --verbose", "run --token --verbose"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer ***"),
        ("error at key: student.model", "error at key: student.model"),
        ("epoch=3, path=/a/b", "epoch=3, path=/a/b"),
    ],
)
def test_masked(text, expected):
    environ = {"MY_SECRET": "canary-4711", "OTHER_TOKEN": "canary-4711-longer", "PIN_PASS": "tiny", "PATH": "epoch=3, path"}  # fmt: skip
    assert mask(text, environ) == expected
