"""From sensor chunks to alarms: the pure core and the shells around it."""

__version__ = "0.1.0"
