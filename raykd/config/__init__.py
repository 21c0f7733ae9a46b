"""The recipe: its settings, how it is loaded, and what is checked before anything starts."""

from raykd.config.load import check_search, load_config
from raykd.config.root import Config

__all__ = ["Config", "check_search", "load_config"]
