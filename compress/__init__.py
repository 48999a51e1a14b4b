"""Turns a big speech translator into a small one."""

__version__ = "0.1.0"
