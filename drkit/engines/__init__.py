"""Database engines: what drkit must know of a server to back it up, archive its log and recover it."""
