"""The command line: thin, and light until a command needs torch or Ray."""

from raykd.cli.entry import main

__all__ = ["main"]
