"""The results as Markdown: the figures to reach, then every case."""

from .figures import Results
from .targets import FIGURES, MIB_MAX, is_ours, peak_of_each_case

# What else was counted stands in the raw results.
DETAILS = ["cpu_seconds", "peak_mib"]

PROFILES_PREFACE = (
    "Of one run of each after the rounds, sampled by perf until all is unmounted, without what prepares it. Shares are "
    "of the time in which a processor did anything. `tokio-rt-worker` is what fetches, digests chunks and writes them to the "
    "cache, `fuser` what answers the kernel, `check` what compares a complete blob with its digest."
)


def number(value):
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if magnitude >= 100 else f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def shown(metric, value):
    """A value with its unit, which is the end of the metric's name."""
    if metric.endswith("bytes_per_second"):
        return f"{number(value / 1e6)} MB/s"
    if metric.endswith("iops"):
        return f"{number(value)} /s"
    if metric.endswith("_mib"):
        return f"{number(value)} MiB"
    if "_seconds" in metric:
        return f"{number(value)} s" if value >= 1 else f"{number(value * 1e3)} ms"
    return number(value)


def spread(metric, values):
    return f"{shown(metric, values.median)} ({shown(metric, values.least)} to {shown(metric, values.most)})"


def ratio(values):
    return f"{values.median:.2f} ({values.least:.2f} to {values.most:.2f})" if values else ""


def markdown(facts, cases, records, commands):
    results = Results(records)
    lines = [f"# {facts['name']}", "", *preface(facts), "", "![the cases](chart.svg)", "", "## Figures to reach", ""]
    lines += figures_table(results)
    for case in cases:
        lines += ["", f"## {case.title}", "", *case_table(case, results), "", *commands_of(case, commands)]
    return "\n".join(lines) + "\n"


def preface(facts):
    dropped = "the page cache was dropped" if facts["page_cache_dropped"] else "the page cache could not be dropped"
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return [
        f"{facts['refmount']}, commit {facts['commit']}, {facts['date']}, made with `{facts['command']}`.",
        f"Linux {facts['kernel']}, {facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB of memory, "
        f"{facts['file_system']}; {dropped}; load before the run {facts['load_before']:.1f}. {versions}.",
        "",
        f"A model of {facts['model']}; {rounds_of(facts)}, in each of which every contestant runs once, in an order "
        "that changes. Values are medians, with the least and the most; ratios are to the median of the baseline in the "
        "same run, which stands in bold.",
    ]


def rounds_of(facts):
    rounds, wanted = facts["rounds"], facts["rounds_wanted"]
    text = "one round" if rounds == 1 else f"{rounds} rounds"
    return text if rounds == wanted else f"{text} of {wanted}, since it was ended early"


def figures_table(results):
    lines = ["| what | measured | target | reached | ratio to the baseline | baseline |", "|---|---|---|---|---|---|"]
    for figure in FIGURES:
        value = figure.value(results)
        if value is None:
            continue
        if figure.relative:
            measured, target = ratio(value), f"{figure.target:g} ×"
        else:
            measured = f"{number(value.median)} {figure.unit} ({number(value.least)} to {number(value.most)})"
            target = f"{figure.target:g} {figure.unit}"
        sense = "≤" if figure.sense == "<=" else "≥"
        reached = "yes" if figure.reached(value) else "**no**"
        lines.append(f"| {figure.what} | {measured} | {sense} {target} | {reached} | {ratio(figure.ratio(results))} | "
                     f"{figure.against} |")
    peaks = peak_of_each_case(results)
    if peaks:
        case = max(peaks, key=peaks.get)
        reached = "yes" if peaks[case] <= MIB_MAX else "**no**"
        lines.append(f"| peak memory of all our processes, in every case | {number(peaks[case])} MiB ({case}) | "
                     f"≤ {MIB_MAX:g} MiB | {reached} | | |")
    return lines


def is_told(metric, contestant):
    """The peak of a command begins with that of the harness, which starts it; only services have one of their own."""
    return metric != "peak_mib" or is_ours(contestant) or contestant.startswith("rclone")


def case_table(case, results):
    metrics = case.shown_metrics + DETAILS
    lines = ["| contestant | metric | median (least to most) | ratio to the baseline |", "|---|---|---|---|"]
    for metric in metrics:
        for contestant in case.contestants:
            values = results.spread(case.name, contestant, metric)
            if values is None or not is_told(metric, contestant):
                continue
            name = f"**{contestant}**" if contestant == case.baseline else contestant
            over = results.ratio(case.name, contestant, case.baseline, metric) if is_told(metric, case.baseline) else None
            lines.append(f"| {name} | {metric} | {spread(metric, values)} | {ratio(over)} |")
    return lines


def commands_of(case, commands):
    lines = ["<details><summary>Commands</summary>", ""]
    for contestant in case.contestants:
        lines += [f"{contestant}:", "", *(f"    {line}" for line in commands.get(f"{case.name}/{contestant}", [])), ""]
    return lines + ["</details>"]
