"""`drkit verify`: is what is stored whole? And `--repair`: make it so."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.options import NetworkRate, Workers
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring, paced
from drkit.core.errors import Damage, KeyMissing
from drkit.core.units import format_size, parse_share

if TYPE_CHECKING:
    from drkit.jobs.verify_facts import Finding, Ground, VerifyResult

_SHOWN = 50


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="also open, decompress, rebuild files, check pages")] = False,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="5%", help="read so much of the bulk; the next run goes on")
    ] = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="only this target; may be repeated")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="replace what is not sound from another target")] = False,
    workers: Workers = 0,
    network_rate: NetworkRate = None,
) -> int:
    """Compare every object with references and digests, on every target; without the key, unless --deep or --repair.

    Exit 9 where damage is left, 7 where a target could not be read and nothing else is wrong.
    """
    from drkit.cli.exits import DAMAGE, DONE, UNREACHABLE
    from drkit.jobs.verify import Surroundings, verify
    from drkit.jobs.verify_facts import VerifyOrder
    from drkit.repository.spool import Spool

    context = of(ctx)
    part = 1.0 if sample is None else parse_share(sample)
    with open_wiring(context, network=paced(network_rate)) as wiring:
        config = wiring.config
        spool = Spool(config.daemon.spool)
        name = wiring.cluster(cluster)[0] if cluster is not None or len(config.cluster) == 1 else ""
        order = VerifyOrder(
            cluster=name,
            targets=frozenset(target or ()),
            deep=deep,
            part=part,
            repair=repair,
            workers=workers or config.backup.workers or os.cpu_count() or 1,
            host=os.uname().nodename,
            quarantine=spool.folder / "damaged",
            suspects=spool.suspects(),
        )
        if repair:
            wiring.need_spool()
        around = Surroundings(wiring.clock, os.urandom, wiring.token, wiring.progress, wiring.log)
        result = verify(order, _ground(wiring), around)
        if result.evidence and not order.targets and not result.unread:  # from now on the evidence says it
            spool.looked_at(key for key in order.suspects if _system(key) in (None, *result.systems))
        if context.json:
            answer_json("drkit.verify/1", result_json(result, wiring.requests()))
        else:
            _show(result, repair=repair, color=context.color)
    return DAMAGE if result.damaged else UNREACHABLE if result.unread else DONE


def _system(key: str) -> int | None:
    from drkit.repository.names import place_of

    place = place_of(key)
    return place.system if place is not None else None


def _ground(wiring: Wiring) -> Ground:
    """The targets as they can be looked at: with the key where it opens, else without."""
    from drkit.jobs.verify_facts import stand

    keyless, keyed = "", None
    try:
        keyed = wiring.repository(reading=True)
    except (KeyMissing, Damage) as error:
        keyless = str(error)
        wiring.log.warn("verifying without the key", why=keyless)
    targets, failed = wiring.targets()
    if keyed is not None:
        mine = {one.name: one for one in keyed.targets}
        targets = [mine.get(one.name, one) for one in targets]
    return stand(targets, failed, wiring.pins(), keyed, keyless)


# --- the answer ---------------------------------------------------------------------------------------------------


def result_json(result: VerifyResult, requests: Mapping[str, Mapping[str, int]]) -> dict[str, object]:
    """requests: by target, what it was asked."""
    unread = result.unread
    return {
        "whole": not result.damaged and not unread,
        "systems": [str(system) for system in result.systems],
        "deep": result.deep,
        "part": None if result.turn is None else {"from": result.turn[0], "to": result.turn[1]},
        "key": result.ground.keyed is not None,
        "seconds": round(result.seconds, 3),
        "targets": [
            {
                "name": name,
                "objects": one.objects,
                "stored_bytes": one.stored_bytes,
                "read_objects": one.read_objects,
                "read_bytes": one.read_bytes,
                "extra_objects": sum(count for count, _ in one.extra.values()),
                "extra_bytes": sum(size for _, size in one.extra.values()),
                "strange": one.strange,
                "segments_behind": one.behind,
            }
            for name, one in sorted(result.tallies.items())
        ],
        "unread": unread,
        "findings": [_finding_json(one) for one in result.findings],
        "holes": [
            {
                "target": one.target,
                "system_identifier": str(one.system),
                "timeline": one.timeline,
                "from_segment": one.first,
                "to_segment": one.last,
                "missing": one.missing,
                "may_be_expired": one.doubt,
            }
            for one in result.holes
        ],
        "pages": [
            {"target": one.target, "backup": one.backup, "path": one.text, "blocks": one.blocks, "known": one.known}
            for one in result.pages
        ],
        "files": [
            {"target": one.target, "backup": one.backup, "path": one.text, "why": one.why} for one in result.files
        ],
        "evidence": result.evidence or None,
        "requests": {name: dict(asked) for name, asked in requests.items()},
    }


def _finding_json(one: Finding) -> dict[str, object]:
    return {
        "target": one.target,
        "key": one.key,
        "kind": _kind(one),
        "fault": one.fault.value,
        "why": one.why,
        "outcome": one.outcome.value,
        "needed_by": list(one.needed_by),
        "sound_on": list(one.sources),
        "kept": one.kept or None,
        "note": one.note,
    }


def _kind(one: Finding) -> str:
    return one.place.kind.name.lower() if one.place.kind is not None else "reader"


def _show(result: VerifyResult, *, repair: bool, color: bool) -> None:
    table(
        ("target", "objects", "stored", "read", "rubbish", "not sound"),
        [
            (
                name,
                str(one.objects),
                format_size(one.stored_bytes),
                format_size(one.read_bytes),
                format_size(sum(size for _, size in one.extra.values())),
                str(sum(f.target == name for f in result.left)),
            )
            for name, one in sorted(result.tallies.items())
        ],
        right=frozenset({"objects", "stored", "read", "rubbish", "not sound"}),
        color=color,
    )
    for one in result.findings[:_SHOWN]:
        sys.stdout.write(_line(one))
    if len(result.findings) > _SHOWN:
        sys.stdout.write(f"{len(result.findings) - _SHOWN} more; --json names all\n")
    _show_rest(result)
    if result.left and not repair and any(one.sources for one in result.left):
        sys.stdout.write("`drkit verify --repair` replaces what another target has whole\n")
    if not result.damaged and not result.unread:
        part = "all of it" if result.turn is None else f"{(result.turn[1] - result.turn[0]) * 100:g}% of the bulk"
        sys.stdout.write(f"whole: {part} was read{', opened and rebuilt' if result.deep else ''}\n")


def _line(one: Finding) -> str:
    word = "LOST" if one.outcome == "lost" else one.outcome.upper() if one.outcome != "left" else "NOT SOUND"
    text = f"{one.target}: {word} {one.key} ({one.fault}): {one.why}"
    if one.sources and one.outcome == "left":
        text += f"; sound on {', '.join(one.sources)}"
    if one.needed_by and one.outcome in ("left", "lost"):
        text += f"; needed by {', '.join(one.needed_by)}"
    if one.note:
        text += f"; {one.note}"
    if one.kept:
        text += f"; the damaged bytes: {one.kept}"
    return text + "\n"


def _show_rest(result: VerifyResult) -> None:
    for hole in result.holes:
        which = hole.first if hole.missing == 1 else f"{hole.first} to {hole.last}, {hole.missing} segments"
        doubt = "; expired or lost: a round of tombstones is damaged" if hole.doubt else " on every target"
        sys.stdout.write(f"{hole.target}, timeline {hole.timeline}: GAP, WAL file {which} missing{doubt}\n")
    for file in result.files[:_SHOWN]:
        path = file.text or "its manifest"
        sys.stdout.write(f"{file.target}: backup {file.backup}: {path} does not rebuild: {file.why}\n")
    for page in result.pages[:_SHOWN]:
        word = "met by the backup itself" if page.known else "the server's own data were corrupt"
        blocks = ", ".join(map(str, page.blocks[:10]))
        sys.stdout.write(f"{page.target}: backup {page.backup}: {page.text}, damaged pages {blocks} ({word})\n")
    for name, one in sorted(result.tallies.items()):
        for key in one.strange[:3]:
            sys.stdout.write(f"{name}: {key} is no object of a repository\n")
        if one.behind:
            sys.stdout.write(f"{name}: {one.behind} WAL segments behind the others; `drkit replicate` brings them\n")
    for name, why in result.unread.items():
        sys.stdout.write(f"{name}: could not be read: {why}\n")
