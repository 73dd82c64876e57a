"""Shows a report: to a person, and to a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from ..options import MAX_LOOPS
from . import remedies
from .applying import Deed
from .facts import UNLIMITED
from .lifts import GroupLimit, Rlimit, Sysctl
from .rules import Finding, Report, State, count, size

__all__ = ["as_json", "as_text"]

_MARKS = {State.OK: "ok", State.BINDS: "BINDS", State.WARN: "warn", State.NOTE: "-"}
_WIDTH = 100


def as_text(report: Report, *, unit: str | None, user: str | None) -> str:
    """The report for people.

    Args:
        report: What was found.
        unit: The unit that drop-ins are for; None: a placeholder is shown.
        user: The user that limits.d is for; None: everybody.
    """
    lines = list(_verdict(report))
    lines += ["", *_findings(report)]
    if report.facts.unread:
        lines += ["", "Not read:"]
        for missed in report.facts.unread:
            lines.append(f"  {missed.what}: {missed.why}")
    lines += ["", *_remedies(report, unit, user)]
    return "\n".join(lines) + "\n"


def deeds_as_text(deeds: list[Deed]) -> str:
    """What was done about it, for people."""
    if not deeds:
        return "Nothing to apply.\n"
    return "".join(f"{'done' if deed.done else 'NOT DONE'}: {deed.what}\n" for deed in deeds)


def as_json(
    report: Report, *, unit: str | None, user: str | None, deeds: list[Deed] | None
) -> dict[str, Any]:
    """The report for programs; docs/tuning.md describes it. No limit is null there.

    Args:
        report: What was found, after the deeds.
        unit: As in `as_text`.
        user: As in `as_text`.
        deeds: What was done with ``--apply``; None: nothing was asked for.
    """
    lifted = remedies.plan(report)
    return {
        "version": 1,
        "subject": report.facts.subject,
        "target": report.question.target,
        "bytes_per_connection": report.question.bytes_per_connection,
        "private_fds": report.question.private_tables,
        "holds": report.holds,
        "capacity": _number(report.capacity),
        "capacity_private_fds": _number(report.capacity_private),
        "loops_for_target": report.loops,
        "limits": [finding.knob for finding in report.limits],
        "findings": [_finding(finding) for finding in report.findings],
        "unread": [{"what": missed.what, "why": missed.why} for missed in report.facts.unread],
        "remedy": {
            "commands": [
                *remedies.sysctl_commands(lifted),
                *remedies.ulimit_commands(lifted),
                *(line for line in remedies.group_lines(lifted, unit) if not line.startswith("#")),
            ],
            "sysctl.d": remedies.sysctl_text(lifted),
            "limits.d": remedies.limits_text(lifted, user or "*"),
            "systemd": remedies.dropin_text(lifted, unit),
            "advice": list(lifted.advice),
        },
        "applied": None if deeds is None else [{"done": deed.done, "what": deed.what} for deed in deeds],
    }


# ---- for people


def _verdict(report: Report) -> Iterator[str]:
    target = report.question.target
    answer = {True: "yes", False: "no", None: "not known"}[report.holds]
    yield f"{target:,} connections, {report.facts.subject}: {answer}"
    yield ""
    yield f"  can hold   {_at_most(report, report.capacity)}"
    loops = ""
    if report.loops is not None and report.capacity < target:
        loops = f", {report.loops} {'is' if report.loops == 1 else 'are'} enough for {target:,}"
    yield (
        f"             {_at_most(report, report.capacity_private)} with private_fds=True"
        f" ({MAX_LOOPS} loops{loops})"
    )
    order = [finding for finding in report.limits if finding.holds != UNLIMITED][:2]
    for when, finding in zip(("first", "second"), order, strict=False):
        held = finding.holds_private if report.question.private_tables else finding.holds
        assert held is not None
        yield f"  {when:<9}  {finding.knob}, {count(held)}"
    bytes_each = report.question.bytes_per_connection
    yield f"  memory     {size(bytes_each * target)} for {target:,}, at {bytes_each:,} bytes each"


def _at_most(report: Report, capacity: int) -> str:
    return count(capacity) if report.certain else f"at most {count(capacity)}"


def _findings(report: Report) -> Iterator[str]:
    knobs = max((len(finding.knob) for finding in report.findings), default=0)
    for finding in report.findings:
        held = "" if finding.holds is None else f"; holds {count(finding.holds)}"
        if finding.holds is not None and finding.holds_private != finding.holds:
            held += f", with private tables {count(finding.holds_private or 0)}"
        yield f"  {_MARKS[finding.state]:<5}  {finding.knob:<{min(knobs, 44)}}  {finding.value}{held}"
        yield from textwrap.wrap(finding.why, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)


def _remedies(report: Report, unit: str | None, user: str | None) -> Iterator[str]:
    lifted = remedies.plan(report)
    if not lifted:
        yield "Nothing to lift." if report.holds else "No setting would lift it."
    if lifted.sysctls:
        yield "Now, as root:"
        yield from (f"  {line}" for line in remedies.sysctl_commands(lifted))
        yield f"At every start, {remedies.SYSCTL_D / remedies.FILE_NAME}:"
        yield from _indented(remedies.sysctl_text(lifted))
    if lifted.rlimits:
        yield "In the shell that starts the server (root may raise what is hard):"
        yield from (f"  {line}" for line in remedies.ulimit_commands(lifted))
        who = "" if user else " (* is not root; put the user's name there)"
        yield f"For those who log in, {remedies.LIMITS_D / remedies.FILE_NAME}{who}:"
        yield from _indented(remedies.limits_text(lifted, user or "*"))
    dropin = remedies.dropin_text(lifted, unit)
    if dropin:
        yield f"For a service of systemd, {remedies.dropin_path(unit or 'NAME')}:"
        yield from _indented(dropin)
        yield f"  (systemctl daemon-reload && systemctl restart {remedies.service_name(unit or 'NAME')})"
    groups = remedies.group_lines(lifted, unit)
    if groups:
        yield "Control groups above:"
        yield from (f"  {line}" for line in groups)
    if lifted.advice:
        yield "Besides:"
        for text in lifted.advice:
            yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.splitlines())


# ---- for programs


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "knob": finding.knob,
        "value": finding.value,
        "state": finding.state.value,
        "why": finding.why,
        "counts": finding.holds is not None,
        "holds": _number(finding.holds),
        "holds_private_fds": _number(finding.holds_private),
        "lifts": [
            lift
            for lift in (
                {"sysctl": each.name, "values": list(each.values)}
                if isinstance(each, Sysctl)
                else {"rlimit": each.name, "value": _number(each.value)}
                if isinstance(each, Rlimit)
                else {"group": each.group, "knob": each.knob, "value": each.value}
                if isinstance(each, GroupLimit)
                else None
                for each in finding.lifts
            )
            if lift is not None
        ],
    }


def _number(n: int | None) -> int | None:
    return None if n is None or n >= UNLIMITED else n
