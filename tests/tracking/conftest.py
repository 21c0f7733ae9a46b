from __future__ import annotations

from pathlib import Path

import pytest


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeVoice:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def voice() -> FakeVoice:
    return FakeVoice()


@pytest.fixture(autouse=True)
def no_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees an account of whoever runs it."""
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "MODE", "DIR", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
