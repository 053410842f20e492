"""The resync schedule of many resources, simulated from real answers, and its drawing."""

from __future__ import annotations

import math

_WIDTH, _HEIGHT = 760, 300
_LEFT, _BOTTOM, _TOP, _RIGHT = 56, 44, 34, 12
_BUCKET = 5
"""Seconds that one bar of the drawing stands for."""


def syncs_per_second(waits: list[float], period: float, horizon: int) -> list[int]:
    """Give the number of syncs in every second up to the horizon, when all resources were synced at second 0.

    ``waits`` are the resyncAfterSeconds that the server answered then. They lead every resource to its own slot, and
    a slot comes back once per period: the answer that is given in a slot is the period.
    """
    counts = [0] * horizon
    counts[0] = len(waits)
    for wait in waits:
        at = wait
        while at < horizon:
            counts[int(at)] += 1
            at += period
    return counts


def steady_peak(per_second: list[int], period: int) -> int:
    """Give the busiest second after everybody has found his slot, which takes one and a half periods."""
    return max(per_second[2 * period :])


def schedule_svg(per_second: list[int], period: int, resources: int) -> str:
    """Draw the syncs per second over time, beside what resyncPeriodSeconds would do; the first second is cut off."""
    bars = [sum(per_second[at : at + _BUCKET]) / _BUCKET for at in range(0, len(per_second), _BUCKET)]
    top = 10 * math.ceil(max(bars[1:]) * 1.5 / 10)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = plot_width / len(bars)

    def up(value: float) -> float:
        return _TOP + plot_height * (1 - min(value, top) / top)

    rectangles = [
        f'<rect x="{_LEFT + n * step:.1f}" y="{up(value):.1f}" width="{step:.2f}" height="{up(0) - up(value):.1f}"/>'
        for n, value in enumerate(bars)
    ]
    marks = []
    for second in range(0, len(per_second) + 1, period):
        x = _LEFT + plot_width * second / len(per_second)
        marks.append(f'<text x="{x:.0f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{second} s</text>')
        if second < len(per_second):
            marks.append(f'<line class="fixed" x1="{x:.0f}" y1="{_TOP}" x2="{x:.0f}" y2="{_HEIGHT - _BOTTOM}"/>')
    marks += [
        f'<text x="{_LEFT - 6}" y="{up(value) + 4:.0f}" text-anchor="end">{value}</text>'
        for value in (0, top // 2, top)
    ]
    mean = resources / period
    marks.append(f'<line class="mean" x1="{_LEFT}" y1="{up(mean):.1f}" x2="{_WIDTH - _RIGHT}" y2="{up(mean):.1f}"/>')
    title = f"Syncs per second of {resources:,} resources that were all synced at second 0"
    legend = (
        f"bars: resyncAfterSeconds as answered; dashed: their mean, {mean:.1f}/s; red: resyncPeriodSeconds, all at once"
    )
    return _page(title, legend, rectangles, marks)


def _page(title: str, legend: str, rectangles: list[str], marks: list[str]) -> str:
    style = (
        "text{font:12px sans-serif;fill:#333}rect{fill:#2a78b5}.fixed{stroke:#c33;stroke-width:2}"
        ".mean{stroke:#111;stroke-dasharray:6 4}.back{fill:#fff}"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">',
        f"<style>{style}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text x="{_LEFT}" y="18" style="font-weight:bold">{title}</text>',
        *rectangles,
        *marks,
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{legend}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
