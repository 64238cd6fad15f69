"""From sensor chunks to alarms: the pure core and the shells around it."""
