"""The demo's words: figures as they are, nothing hidden that went wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from drills.demo import tale
from drills.demo.report import Decision, DrillFigures, Report, StoreFigures
from drills.demo.setup import Bucket, configuration, targets_of
from drkit.config.load import load
from policies.cron import Cron, following
from tests.drills.report.samples import failed, passed

ROOT = Path("/tmp/demo")


def store(name: str, site: str, medium: str) -> StoreFigures:
    return StoreFigures(name, site, medium, f"file:///tmp/demo/{name}", "1", 1 << 20, 7, 1 << 10, 3)


def told(decisions: list[Decision]) -> dict[str, str]:
    report = Report("/tmp/demo", "postgres", (), decisions=decisions)
    report.drills = {"disk-lost": DrillFigures(passed(), 40)}
    report.stores = [store("near", "office", "disk"), store("far", "cellar", "other")]
    return dict(tale.summary(report))


def test_copies_are_told_as_seen_beside_what_is_declared() -> None:
    broken = [Decision("copies", "kept", 3, 3), Decision("media", "broken", 2, 1), Decision("offsite", "broken", 1, 0)]
    assert told(broken)["3-2-1"].startswith(
        "3 copies, 2 media, 1 offsite are declared; seen are 3 copies, 1 medium, 0 offsite"
    )
    kept = [Decision("copies", "kept", 3, 3), Decision("media", "kept", 2, 2), Decision("offsite", "kept", 1, 1)]
    assert told(kept)["3-2-1"] == "3 copies, 2 media, 1 offsite, declared and seen"


def test_promises_stand_beside_what_was_measured() -> None:
    rows = told([])
    assert rows["RTO"] == "17m 42s until writes were accepted again (objective 30m: kept)"
    assert rows["RPO"] == "4.1s of acknowledged writes lost (objective 30m: kept)".replace("30m", "1m")


def test_each_bar_of_the_waterfall_begins_where_the_one_before_ended() -> None:
    bars = [text for _, text in tale.waterfall(passed())]
    assert [bar.split()[0] for bar in bars] == ["+5m", "+11m", "+16m", "+16m", "+17m"]
    begin = [bar.index("#") for bar in bars]
    end = [bar.rindex("#") + 1 for bar in bars]
    assert begin == sorted(begin)
    assert all(abs(later - earlier) <= 1 for earlier, later in zip(end, begin[1:], strict=False))


def test_what_failed_is_named_with_its_reasons() -> None:
    word, text = tale.verdict(failed())
    assert word == "FAILED"
    assert "V5: its negative control was not caught" in text
    assert tale.verdict(passed()) == ("PASSED", passed().sentence)
    found = tale.checks(failed().checks)
    assert found.startswith("4 of 7 passed (V1 failed, V4 error, open_orders skipped)")
    assert "4 of 5 fail on data damaged on purpose" in found


def test_of_the_status_its_verdict_findings_targets_and_next_runs_are_shown() -> None:
    lines = """\
shop: AT RISK
  BAD      near: it is on the server's own disk
             drkit policy check

target  protected  newest backup
near    NO         20261121T155845Z-2105a1ba
  near, timeline 1: from 2026-11-21 15:54:39 to 2026-11-21 15:54:39 UTC, without a gap
server     answers, 0 WAL files wait to be archived
exposure   nothing would be lost with the server
daemon: alive, process 30645, for 6.1s
  last     backup shop: done 3.5s ago
  next     drill shop: 2026-11-27 13:30:00 UTC, in 5d 21h
""".splitlines()
    shown = tale.status(lines, targets_of(ROOT, None))
    assert shown == [lines[at] for at in (0, 1, 4, 5, 8, 9, 11)]
    assert tale.status(["shop: protected", "  BAD      " + "x" * 200], ())[1].endswith("xxx ...")


def test_the_configuration_is_valid_and_no_bell_rings_during_the_demo(tmp_path: Path) -> None:
    bucket = Bucket("s3://bucket/prefix", "http://127.0.0.1:1", "id", "secret", "eu")
    now = datetime(2026, 12, 31, 0, 59, tzinfo=UTC)
    path = tmp_path / "drkit.toml"
    path.write_text(configuration(ROOT, targets_of(ROOT, bucket), bucket, "select 'a'", "a", now))
    config = load(path, {}, tmp_path).config
    assert set(config.target) == {"near", "far", "cloud"}
    assert config.cluster["shop"].sacrificial
    assert config.drill["disk-lost"].assertion[0].expected == "a"
    for bell in config.schedule:
        ring = following(Cron.parse(bell.cron), UTC, now)
        assert ring is not None
        assert (ring - now).total_seconds() > 12 * 3600
