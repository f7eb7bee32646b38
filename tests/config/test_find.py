"""Which file is taken, and which is not trusted."""

import os
import tempfile
from pathlib import Path

import pytest

from drkit.config.find import find
from drkit.core.errors import ConfigError


def test_the_order(tmp_path: Path) -> None:
    named, by_env, system = (tmp_path / name for name in ("a.toml", "b.toml", "etc.toml"))
    local = tmp_path / "drkit.toml"
    for path in (named, by_env, system, local):
        path.touch(mode=0o600)
    env = {"DRKIT_CONFIG": str(by_env)}
    assert find(named, env, tmp_path, system_file=system) == named
    assert find(Path("a.toml"), env, tmp_path, system_file=system) == named
    assert find(None, env, tmp_path, system_file=system) == by_env
    assert find(None, {}, tmp_path, system_file=system) == local
    local.unlink()
    assert find(None, {}, tmp_path, system_file=system) == system
    system.unlink()
    with pytest.raises(ConfigError, match="no configuration"):
        find(None, {}, tmp_path, system_file=system)


def test_a_named_file_that_is_missing_is_never_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "drkit.toml").touch(mode=0o600)
    with pytest.raises(ConfigError, match="DRKIT_CONFIG names no file"):
        find(None, {"DRKIT_CONFIG": "gone.toml"}, tmp_path)


def test_a_local_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    local = tmp_path / "drkit.toml"
    local.touch()
    local.chmod(0o606)
    with pytest.raises(ConfigError, match="others may write"):
        find(None, {}, tmp_path)
    assert find(local, {}, tmp_path) == local, "named on purpose it is taken"


def test_a_local_link_that_leads_nowhere_is_told_and_not_replaced(tmp_path: Path) -> None:
    system = tmp_path / "etc.toml"
    system.touch(mode=0o600)
    (tmp_path / "drkit.toml").symlink_to("gone.toml")
    with pytest.raises(ConfigError, match="a link that leads to no file"):
        find(None, {}, tmp_path, system_file=system)
    (tmp_path / "gone.toml").touch(mode=0o600)
    assert find(None, {}, tmp_path, system_file=system) == tmp_path / "drkit.toml"
    (tmp_path / "gone.toml").chmod(0o602)
    with pytest.raises(ConfigError, match="others may write"):
        find(None, {}, tmp_path, system_file=system)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_folder_that_may_not_be_entered_is_no_defect(tmp_path: Path) -> None:
    closed = tmp_path / "closed"  # below folders that pytest made for itself alone
    closed.mkdir(mode=0o700)
    (closed / "a.toml").touch(mode=0o600)
    os.seteuid(65534)
    try:
        for explicit, system in ((closed / "a.toml", Path("/none")), (None, closed / "a.toml")):
            with pytest.raises(ConfigError, match="Permission denied") as caught:
                find(explicit, {}, Path("/"), system_file=system)
            assert str(closed) in caught.value.where and caught.value.cure
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_current_folder_that_may_not_be_entered_holds_no_configuration() -> None:
    """As in `cd /root; sudo -u postgres drkit init`. An existing file that may not be read is another matter."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        closed, system = root / "closed", root / "etc.toml"
        closed.mkdir(mode=0o700)
        root.chmod(0o755)
        system.touch(mode=0o644)
        (closed / "drkit.toml").touch(mode=0o644)
        (root / "drkit.toml").symlink_to(closed / "drkit.toml")
        os.seteuid(65534)
        try:
            assert find(None, {}, closed, system_file=system) == system
            with pytest.raises(ConfigError, match="may not be entered") as caught:
                find(None, {}, closed, system_file=root / "none.toml")
            assert str(closed / "drkit.toml") in caught.value.where
            with pytest.raises(ConfigError, match="Permission denied"):
                find(None, {}, root, system_file=system)
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("through_link", [False, True])
def test_a_local_file_of_another_user_is_refused(tmp_path: Path, through_link: bool) -> None:
    local = tmp_path / "drkit.toml"
    if through_link:
        (tmp_path / "real.toml").touch(mode=0o600)
        local.symlink_to("real.toml")
    else:
        local.touch(mode=0o600)
    os.chown(local, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        find(None, {}, tmp_path)
