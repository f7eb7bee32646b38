"""What the demo configures: a cluster and its promises, two folders as targets, an S3 bucket where one is given, a
schedule and two drills; and the server's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from drills.demo.place import MARK
from drkit.core.errors import Refused

CLUSTER = "shop"
SITE = "office"
RPO_S, RTO_S = 15, 120
ARCHIVE_TIMEOUT_S = 3
DROPPED_TABLE, DISK_LOST = "dropped-table", "disk-lost"
ORDERS = "orders"  # the question about the shop's own table
_KEEP = ("LANG", "LC_ALL", "TZ", "TERM", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "https_proxy", "no_proxy", "VIRTUAL_ENV")

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLUSTER = """\
[cluster.{name}]
connection  = "{connection}"
data_dir    = "{root}/data"
site        = "{site}"
staging     = "{root}"  # where drills restore
sacrificial = true  # a drill may destroy this server: it is made for that

[cluster.{name}.objectives]
rpo           = "{rpo}s"
rto           = "{rto}s"
max_drill_age = "8d"
"""
_SCHEDULE = """\
[[schedule]]
job  = "backup"
cron = "0 {hour} * * *"

[[schedule]]
job      = "drill"
scenario = "dropped-table"
cron     = "30 {hour} * * {day}"
"""
_DRILLS = """\
[drill.{dropped}]
scenario = "dropped-table"
title    = "A table is dropped, and brought back as it was just before"
ledger   = true
load     = "4s"

[drill.{lost}]
scenario = "disk-lost"
title    = "The server's disk is lost"
ledger   = true
load     = "8s"
deny_targets = ["near"]  # beside the server: lost with it

[[drill.{lost}.assertion]]
name     = "{orders}"
sql      = "{question}"
expected = "{answer}"
"""
_HOST = """\
[copies]
rule       = "3-2-1"
backup_ack = {backup_ack}

[keys]
file = "{root}/master.key"

[daemon]
socket = "{root}/s/drkit.sock"
spool  = "{root}/spool"
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a third copy goes: `url` already names a prefix of this run alone."""

    url: str
    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the demo: `folder` is None for a bucket."""

    name: str
    site: str
    medium: str
    url: str
    folder: Path | None


def bucket_of(env: Mapping[str, str], run: str) -> Bucket | None:
    """The bucket that the environment offers, or None. Raises Refused where it is offered by half.

    DRKIT_DEMO_S3_URL (s3://bucket/prefix), DRKIT_DEMO_S3_ENDPOINT, DRKIT_DEMO_S3_ACCESS_KEY and _SECRET_KEY, else
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; DRKIT_DEMO_S3_REGION.
    """
    url, endpoint = env.get("DRKIT_DEMO_S3_URL", ""), env.get("DRKIT_DEMO_S3_ENDPOINT", "")
    if not url:
        return None
    access = env.get("DRKIT_DEMO_S3_ACCESS_KEY") or env.get("AWS_ACCESS_KEY_ID", "")
    secret = env.get("DRKIT_DEMO_S3_SECRET_KEY") or env.get("AWS_SECRET_ACCESS_KEY", "")
    if not access or not secret:
        raise Refused(
            "the bucket has no credentials",
            where="DRKIT_DEMO_S3_URL",
            cure="set DRKIT_DEMO_S3_ACCESS_KEY and DRKIT_DEMO_S3_SECRET_KEY",
        )
    region = env.get("DRKIT_DEMO_S3_REGION", "")
    return Bucket(f"{url.rstrip('/')}/drkit-demo-{run}", endpoint, access, secret, region)


def targets_of(root: Path, bucket: Bucket | None) -> tuple[Target, ...]:
    """Two folders that stand for two sites and two media, and the bucket."""
    folders = [("near", SITE, "disk"), ("far", "cellar", "other")]
    found = [Target(name, site, medium, f"file://{root / name}", root / name) for name, site, medium in folders]
    if bucket is not None:
        found.append(Target("cloud", "cloud", "object", bucket.url, None))
    return tuple(found)


def configuration(
    root: Path, targets: tuple[Target, ...], bucket: Bucket | None, question: str, answer: str, now: datetime
) -> str:
    """The drkit.toml of the demo; it reads as one that a user would write.

    question, answer: what the restored server is asked besides, in SQL, and what is right
    now: no bell rings soon after it; the first backup is due because there is none.
    """
    parts = [
        _CLUSTER.format(name=CLUSTER, connection=conninfo(root), root=root, site=SITE, rpo=RPO_S, rto=RTO_S),
        *(_target(root, target, bucket) for target in targets),
        _SCHEDULE.format(hour=(now - timedelta(hours=2)).hour, day=_DAYS[(now - timedelta(days=1)).weekday()]),
        _DRILLS.format(dropped=DROPPED_TABLE, lost=DISK_LOST, orders=ORDERS, question=question, answer=answer),
        _HOST.format(root=root, backup_ack=len(targets)),
    ]
    return "\n".join(parts)


def _target(root: Path, target: Target, bucket: Bucket | None) -> str:
    lines = [f"[target.{target.name}]", f'url    = "{target.url}"']
    lines += [f'site   = "{target.site}"', f'medium = "{target.medium}"']
    if target.folder is None and bucket is not None:
        lines += [f'endpoint = "{bucket.endpoint}"'] if bucket.endpoint else []
        lines += [f'region = "{bucket.region}"'] if bucket.region else []
        lines += [f'access_key_file = "{root / "s3.access"}"', f'secret_key_file = "{root / "s3.secret"}"']
    return "\n".join(lines) + "\n"


def conninfo(root: Path) -> str:
    """How to reach the demo's own server: by its socket alone."""
    return f"host={root / 's'} port=5432 user=postgres dbname=postgres"


def environment(root: Path, programs: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of all that the demo runs: nothing of the caller's drkit or libpq settings gets in."""
    kept = {name: given[name] for name in _KEEP if name in given}
    path = f"{programs}{os.pathsep}{given.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "HOME": str(root), "NO_COLOR": "1", MARK: str(root)}


def server_settings() -> dict[str, str]:
    """Of the demo's server. It listens on its socket only, so no port of this machine is taken."""
    return {
        "listen_addresses": "",
        "shared_buffers": "128MB",
        "max_connections": "30",
        "max_wal_size": "2GB",
        "archive_mode": "on",
        "archive_command": "drkit-wal push %p",
        "archive_timeout": f"{ARCHIVE_TIMEOUT_S}s",
        "dynamic_shared_memory_type": "mmap",
    }
