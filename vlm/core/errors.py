"""Errors that more than one folder raises."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration or an option that cannot be used.

    The message names the option, the value found and the expected one, in one line.
    """
