"""The rule by which WAL counts as archived, from what is known of where targets and server are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drkit.repository.repository import Repository
from drkit.repository.spool import Spool
from policies.acks import AckRule, Wanted, rule_for


def ack_rule(
    wanted: Wanted, names: Sequence[str], repository: Repository, spool: Spool, cluster: str, data_dir: Path
) -> AckRule:
    """The policy's rule for the configured targets `names` and the server in `data_dir`.

    Of a target that is away, its device is believed to be what it was when this host last opened it. Raises OSError
    where `data_dir` is there and cannot be looked at.
    """
    here = {str(path.stat().st_dev) for path in (data_dir, data_dir / "pg_wal") if path.exists()}
    beside = next(iter(here), None)
    devices = {name: beside if spool.was_beside(_memo(cluster, name)) else None for name in names}
    for target in repository.targets:
        devices[target.name] = target.backend.traits.device
        spool.remember_beside(_memo(cluster, target.name), target.backend.traits.device in here)
    return rule_for(wanted, devices, here)


def _memo(cluster: str, target: str) -> str:
    """Clusters of one host may stand on different devices. Neither name has a dot."""
    return f"{cluster}.{target}"
