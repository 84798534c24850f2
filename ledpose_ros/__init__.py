"""Robots that teach themselves to see each other, from LED states alone."""

__version__ = "0.1.0"
