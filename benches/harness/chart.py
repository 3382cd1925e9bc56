"""The results as an SVG: for each case the contestants' ratios to the baseline, with their spread."""

from dataclasses import replace
from xml.sax.saxutils import escape

from .figures import Results
from .report import shown
from .targets import is_ours

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 960, 260, 130
BAR, GAP, HEAD = 14, 5, 24
RATIO_MAX = 4.0
OURS, OTHERS, SPREAD = "#2563ab", "#b8bec6", "#20242a"


# What the short chart has: a metric of some cases.
OVERVIEW = {
    "cold-all": "total_seconds",
    "cold-shard": "total_seconds",
    "archive": "total_seconds",
    "safetensors-8": "read_seconds",
    "link-50": "bytes_per_second",
    "again": "disk_bytes_per_second",
    "small-files": "warm_seconds",
}


def overview(title, cases, records):
    chosen = [replace(case, shown_metrics=[OVERVIEW[case.name]]) for case in cases if case.name in OVERVIEW]
    return svg(title, chosen, records)


def svg(title, cases, records):
    results = Results(records)
    parts, y = [], HEAD + 36
    for case in cases:
        for metric in case.shown_metrics:
            drawn, y = group(case, metric, results, y)
            parts += drawn
    scale = "".join(
        f'<line x1="{x_of(tick):.1f}" y1="{HEAD + 24}" x2="{x_of(tick):.1f}" y2="{y}" stroke="#e2e5e9"/>'
        f'<text x="{x_of(tick):.1f}" y="{HEAD + 18}" text-anchor="middle" fill="#667">{tick}</text>'
        for tick in range(int(RATIO_MAX) + 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" height="{y + 10}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{y + 10}" fill="#fff"/>\n'
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(title)}</text>\n{scale}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def x_of(ratio):
    return LABEL_WIDTH + min(ratio, RATIO_MAX) / RATIO_MAX * (WIDTH - LABEL_WIDTH - VALUE_WIDTH)


def group(case, metric, results, y):
    """The bars of one metric; and where the next begin."""
    better = "more is better" if metric.endswith(("per_second", "iops")) else "less is better"
    head = f"{case.title}: {metric} ({better})" if " then " in case.title or len(case.shown_metrics) > 1 else f"{case.title} ({better})"
    parts = [f'<text x="10" y="{y + 12}" font-weight="bold">{escape(head)}</text>']
    y += HEAD - 4
    bars = 0
    for contestant in case.contestants:
        ratio = results.ratio(case.name, contestant, case.baseline, metric)
        if ratio is None:
            continue
        value = results.spread(case.name, contestant, metric)
        parts += bar(contestant, ratio, shown(metric, value.median), y, is_ours(contestant))
        y += BAR + GAP
        bars += 1
    return (parts, y + GAP) if bars else ([], y - HEAD + 4)


def bar(name, ratio, value, y, ours):
    middle = y + BAR / 2
    left, right = x_of(ratio.least), x_of(ratio.most)
    over = " +" if ratio.median > RATIO_MAX else ""
    return [
        f'<text x="{LABEL_WIDTH - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LABEL_WIDTH}" y="{y}" width="{x_of(ratio.median) - LABEL_WIDTH:.1f}" height="{BAR}" '
        f'fill="{OURS if ours else OTHERS}"/>',
        f'<path d="M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8M{right:.1f} {middle - 4}v8" '
        f'stroke="{SPREAD}" fill="none"/>',
        f'<text x="{WIDTH - VALUE_WIDTH + 8}" y="{y + 11}">{ratio.median:.2f}{over} · {escape(value)}</text>',
    ]
