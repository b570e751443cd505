"""A request's story as one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

import html
from typing import Any

STYLE = (
    "body{font:14px/1.45 system-ui;max-width:75em;margin:2em auto;padding:0 1em}h1{font-size:1.15em}h2{font-size:1em;"
    "margin:1.5em 0 .3em}table{border-collapse:collapse;width:100%}td{padding:.15em .6em .15em 0;vertical-align:top}"
    ".at{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.line{width:22em;min-width:10em}"
    ".line div{background:#8883;height:.9em;margin-top:.25em;position:relative}.line i{position:absolute;height:100%;"
    "min-width:2px;background:#4a90d9}.line .wait{background:#e0a030}.line .answer{background:#3fa55c}"
    ":root{color-scheme:light dark}"
)
PHASES = {"first_token": "answer"} | dict.fromkeys(
    ("queued", "held", "preempted", "swapped_out", "not_swapped"), "wait"
)


def write_timeline(told: dict[str, Any]) -> str:
    """The page of what GET …/timeline tells."""
    title = html.escape(f"{told['endpoint']}, {told['state']}")
    parts = [f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>']
    parts.append(f"<h1>{title}</h1><p>{html.escape(told['summary'])}")
    names = ", ".join(f"<code>{html.escape(name)}</code>" for name in (told["id"], *told["names"]))
    parts.append(f"<p>{names}")
    before = [event for event in told["events"] if event["event"] != "answered"]
    after = [event for event in told["events"] if event["event"] == "answered"]
    for sequence in told["timelines"] or [{"events": []}]:
        if len(told["timelines"]) > 1:
            parts.append(f"<h2>prompt {sequence['prompt']}, continuation {sequence['index']}</h2>")
        parts.append(table([*before, *sequence["events"], *after], max(float(told["age_ms"]), 1e-3)))
    return "".join(parts)


def table(events: list[dict[str, Any]], end_ms: float) -> str:
    """Events with bars, each as long as it takes to the next one."""
    rows: list[str] = []
    for event, until in zip(events, [*(event["at_ms"] for event in events[1:]), end_ms], strict=True):
        left = 100 * min(1.0, event["at_ms"] / end_ms)
        width = 100 * max(0.0, min(1.0, until / end_ms) - left / 100)
        phase = PHASES.get(event["event"], "work")
        rows.append(
            f'<tr><td>{html.escape(event["event"])}<td class="at">{event["at_ms"]:,.1f} ms<td class="line"><div>'
            f'<i class="{phase}" style="left:{left:.2f}%;width:{width:.2f}%"></i></div><td>{html.escape(event["text"])}'
        )
    return f"<table>{''.join(rows)}</table>"
