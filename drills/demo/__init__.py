"""The demonstration: a throw-away PostgreSQL, a daemon that backs it up, a drill, a disaster, and what it took."""
