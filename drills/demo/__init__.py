"""The demonstration: a throw-away PostgreSQL, backups under load, a disaster, and every row accounted for."""
