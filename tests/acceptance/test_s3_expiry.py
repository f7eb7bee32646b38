"""A host that may not delete, and expiry by credentials of its own, on a real S3 service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scene import Scene, Target, folder, newest_major, stop_strays
from tests.acceptance.shelves import BucketShelf, flipped, last
from tests.acceptance.stores import s3_target
from tests.acceptance.test_rows import fill
from tests.acceptance.test_rows_expiry import SHORT, expire, good
from tests.real.postgres import give, new_server
from tests.real.rgw import OWNER, RgwServer

pytestmark = pytest.mark.real

DENIED = 7


def policy(bucket: str, user: str) -> str:
    """What a host needs: to read, to create but tombstones, and to delete leases and canaries. The owner may do all,
    also with what the host wrote."""
    who, objects = {"AWS": [f"arn:aws:iam:::user/{user}"]}, f"arn:aws:s3:::{bucket}/drkit"
    owner = {"AWS": [f"arn:aws:iam:::user/{OWNER}"]}
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": [f"arn:aws:s3:::{bucket}", f"{objects}/*"]}
    passing = [f"{objects}/clusters/*/leases/*", f"{objects}/canaries/*"]
    bucket_reads = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads", "s3:GetBucketVersioning"]
    object_writes = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    rules: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": bucket_reads, "Resource": [f"arn:aws:s3:::{bucket}"]},
        {"Effect": "Allow", "Action": object_writes, "Resource": [f"{objects}/*"]},
        {"Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": passing},
        {"Effect": "Deny", "Action": ["s3:PutObject"], "Resource": [f"{objects}/clusters/*/tombstones/*"]},
    ]
    statement = [{**everything, "Principal": owner}, *({**rule, "Principal": who} for rule in rules)]
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


@dataclass
class Apart:
    """A scene whose host may not delete; `expiring` is a configuration that has the credentials of expiry too."""

    scene: Scene
    rgw: RgwServer
    shelf: BucketShelf
    bucket: str
    expiring: Path


@pytest.fixture
def apart(rgw: RgwServer) -> Iterator[Apart]:
    server = new_server(newest_major(), segment_mb=1)
    try:
        root = server.root
        owner = s3_target(rgw, root, "cloud")
        bucket = owner.url.split("/")[2]
        user, access_key, secret_key = rgw.add_user()
        rgw.client().put_bucket_policy(Bucket=bucket, Policy=policy(bucket, user))
        for name, key in (("access_key_file", access_key), ("secret_key_file", secret_key)):
            (root / f"writer.{name}").write_text(key)
            (root / f"writer.{name}").chmod(0o600)
            give(root / f"writer.{name}")
        writer = replace(owner, lines=tuple(line.replace("/cloud.", "/writer.") for line in owner.lines))
        one = Scene(server, [folder(root, "a"), writer], SHORT)
        one.start()
        keys = tuple(f"expire_{line}" for line in owner.lines if "_key_file" in line)
        expiring = one.write_config(
            root / "expire.toml", [one.targets[0], Target("cloud", writer.url, writer.lines + keys)]
        )
        yield Apart(one, rgw, BucketShelf(rgw, owner.url), bucket, expiring)
    finally:
        stop_strays(server.root)
        server.close()


def test_a_host_without_the_right_to_delete_does_all_but_expiry(apart: Apart) -> None:
    one = apart.scene
    one.server.query("create table t (n int)")
    told = one.drkit("check", check=False).stdout  # of fsync, which these servers do without, it complains
    assert f"ok    target cloud: {one.targets[1].url}" in told and "ok    archiving:" in told
    first, second = one.backup(), one.backup()
    fill(one, 3)
    assert good(one) == {ident: {"a", "cloud"} for ident in (first["id"], second["id"])}
    one.drkit("replicate")
    pack = last(apart.shelf, f"clusters/*/packs/{first['id']}/*")
    flipped(apart.shelf, pack)
    assert one.drkit("verify", check=False).returncode == 9
    assert one.drkit("verify", "--repair", check=False).returncode == 0, "to put right is no deletion"
    one.drkit("verify", "--deep")
    _expiry_is_denied(apart, second["id"])

    expire(one, apart.expiring)
    expire(one, apart.expiring)
    assert good(one) == {second["id"]: {"a", "cloud"}}
    assert not any(f"/manifests/{first['id']}" in key for key in apart.shelf.listed())
    assert not any("/leases/" in key or key.startswith("canaries/") for key in apart.shelf.listed())
    assert one.drkit("verify", check=False).returncode == 0
    third = one.backup()
    assert good(one)[third["id"]] == {"a", "cloud"}
    with one.restored("from-cloud", "--from", "cloud") as (_, session):
        assert session.execute("select count(*) from t").fetchone() == (3,)


def _expiry_is_denied(apart: Apart, newest: str) -> None:
    """With the host's own credentials: nothing goes, and it says why."""
    one, before = apart.scene, apart.shelf.listed()
    done = one.drkit("expire", "--apply", "--removes", "1", "--target", "cloud", check=False)
    assert done.returncode == DENIED, (done.returncode, done.stdout, done.stderr)
    assert "cloud" in done.stdout + done.stderr and "denied" in (done.stdout + done.stderr).lower()
    kept = {key for key in before if "/leases/" not in key}
    assert kept <= set(apart.shelf.listed())
    assert "cloud" in good(one)[newest]


def test_a_versioned_bucket_of_a_store_that_ignores_conditions_there_is_refused(rgw: RgwServer) -> None:
    """Ceph's gateway (16.2) honours `If-None-Match` in a plain bucket, and puts version over version in this one."""
    server = new_server(newest_major())
    try:
        target = s3_target(rgw, server.root, "cloud")
        bucket = target.url.split("/")[2]
        rgw.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        one = Scene(server, [target])
        (server.root / "spool").mkdir()
        give(server.root / "spool")
        one.write_config()
        code, error = one.refusal("init", "--yes")
        assert code == 3 and "If-None-Match" in error["why"], error
        assert BucketShelf(rgw, target.url).listed() == []
    finally:
        server.close()
