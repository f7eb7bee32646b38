"""The repository: targets, keys and layout; manifests, catalogue, leases, tombstones, WAL objects (docs/format.md)."""
