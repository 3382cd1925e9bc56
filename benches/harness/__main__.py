"""Makes the data, starts the servers, runs the rounds and writes the results. Started by scripts/bench."""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from . import chart, machine, report
from .cases import all_cases
from .contestants import Bench
from .data import SHARDS, Data
from .mounted import end_owner
from .profile import objection as profile_objection
from .profile import profile
from .servers import Servers
from .targets import is_ours
from .workplace import Workplace

NEEDS_FULL_CACHE = ("again", "fio")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures refmount beside what else does the job.",
                                     allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="smaller data and 3 rounds: a few minutes")
    parser.add_argument("--rounds", type=count, help="5, or 3 with --quick")
    parser.add_argument("--profile", action="store_true",
                        help="each of our own once more after the rounds, under perf: a flame graph and the largest shares")
    parser.add_argument("--name", type=plain_name, help="of the results: benches/results/DATE-NAME (full, quick, or the names of the cases)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--programs", help=argparse.SUPPRESS)
    parser.add_argument("--interpreter", help=argparse.SUPPRESS)
    parser.add_argument("cases", metavar="CASE", nargs="*", help=f"only these: {', '.join(c.name for c in all_cases())}")
    parsed = parser.parse_args()
    parsed.rounds = parsed.rounds or (3 if parsed.quick else 5)
    parsed.name = parsed.name or default_name(parsed)
    known = {case.name for case in all_cases()}
    for name in parsed.cases:
        if name not in known:
            parser.error(f"there is no case {name}")
    return parsed


def count(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def plain_name(text):
    if not re.fullmatch("[A-Za-z0-9._-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} holds more than letters, digits, '.', '_' and '-'")
    return text


def default_name(parsed):
    """What is of some cases alone does not take the place of what is of all of them."""
    return "-".join([*["quick"][: parsed.quick], *parsed.cases]) or "full"


def main():
    options = arguments()
    cases = [case for case in all_cases() if not options.cases or case.name in options.cases]
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        sys.exit("/dev/fuse is missing or not for this user: without it nothing is mounted, and nothing measured")
    place = tempfile.gettempdir()
    objection = machine.objection(machine.file_system(place), shutil.disk_usage(place).free, options.quick)
    if objection:
        sys.exit(f"{place}, where the data would be made, {objection}")
    # Before anything is installed and built.
    if options.check:
        return
    # Ended from outside, it ends what it has started too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup it goes on.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda ended_by, _: sys.exit(128 + ended_by))
    with tempfile.TemporaryDirectory(prefix="refmount-bench-") as root:
        objection = options.profile and profile_objection(root)
        if objection:
            sys.exit(f"nothing can be profiled: {objection}")
        workplace = Workplace(root, options.programs, options.interpreter, options.quick)
        if not workplace.drops_page_cache:
            print("not root: the page cache cannot be emptied, and what should be cold is not", file=sys.stderr)
        facts = {
            "name": f"{datetime.now(timezone.utc):%Y-%m-%d}-{options.name}",
            "command": shlex.join(["scripts/bench", *without_hidden(sys.argv[1:])]),
            "rounds_wanted": options.rounds,
            **machine.describe(workplace),
        }
        servers, partial = Servers(workplace), None
        try:
            print("making the data", file=sys.stderr)
            data = Data(workplace, servers.registry)
            names = {case.name for case in cases}
            data.make(archive="archive" in names, small_files="small-files" in names)
            servers.serve_files(data.served)
            facts["model"] = f"{SHARDS} raw shards of {data.shard_mib} MiB"
            bench = Bench(workplace, servers, data)
            if names & set(NEEDS_FULL_CACHE):
                bench.fill_cache()
            directory = workplace.repository / "benches/results" / facts["name"]
            # An earlier one of that name stays until this one is whole.
            partial = directory.with_name(f"{directory.name}.partial")
            records, commands = [], {}
            for number in range(options.rounds):
                run_round(bench, cases, f"{number + 1}/{options.rounds}", number, records, commands)
                write(partial, {**facts, "rounds": number + 1}, cases, records, commands)
            shutil.rmtree(directory, ignore_errors=True)
            partial.rename(directory)
            if options.profile:
                run_profiles(bench, cases, directory)
        except KeyboardInterrupt:
            left = f"; what was measured until then is in {partial}" if partial and partial.exists() else ""
            print(f"ended by Ctrl-C{left}", file=sys.stderr)
            sys.exit(130)
        finally:
            # Whoever is impatient would leave mounts and gigabytes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            workplace.commands.end()
            servers.stop()
            clean_up_mounts(workplace)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("\n" + (directory / "README.md").read_text().split("## Figures to reach")[1].split("\n## ")[0].strip())
    if not options.quick and not options.cases:
        micro_benchmarks(workplace.repository, directory / "micro.txt")
    print(f"\nwritten to {directory}")


def without_hidden(argv):
    hidden = ("--programs", "--interpreter")
    return [word for before, word in zip(["", *argv], argv) if word not in hidden and before not in hidden]


def run_round(bench, cases, label, number, records, commands):
    """Adds to `records` what each contestant does, and to `commands` what it runs."""
    for case in cases:
        names = list(case.contestants)
        # Each begins in turn, and in every other turn the rest comes in the opposite order.
        names = names[number % len(names):] + names[:number % len(names)]
        if number // len(names) % 2:
            names.reverse()
        for name in names:
            begun = time.perf_counter()
            bench.log.take()
            metrics = case.contestants[name](bench)
            commands.setdefault(f"{case.name}/{name}", bench.log.take())
            records.append({"round": number + 1, "case": case.name, "contestant": name, "metrics": metrics})
            values = ", ".join(
                f"{metric} {report.shown(metric, metrics[metric])}"
                for metric in case.shown_metrics[:2] if metric in metrics
            )
            took = time.perf_counter() - begun
            print(f"{label} {case.name}: {name}: {values} [{took:.1f} s]", file=sys.stderr, flush=True)


def run_profiles(bench, cases, directory):
    """Flame graphs of our own in `profiles`, and beside them what had the largest shares."""
    profiles = directory / "profiles"
    profiles.mkdir()
    lines = ["# Where the time of the processors goes", "", report.PROFILES_PREFACE]
    for case in cases:
        for name in filter(is_ours, case.contestants):
            print(f"profile of {case.name}: {name}", file=sys.stderr, flush=True)
            file = re.sub("[^a-z0-9]+", "-", f"{case.name} {name}".lower()) + ".svg"
            shares = profile(bench.workplace, f"{case.title}: {name}", lambda: case.contestants[name](bench), profiles / file)
            lines += ["", f"## {case.title}: {name}", "", f"![flame graph]({file})", "", *shares.markdown()]
    (profiles / "README.md").write_text("\n".join(lines) + "\n")


def clean_up_mounts(workplace):
    """What is still mounted when something has failed."""
    for directory in sorted(workplace.mounts.iterdir()):
        if os.path.ismount(directory):
            for cache in (workplace.cache, workplace.full_cache):
                argv = [str(workplace.refmount), "umount", str(directory)]
                if os.spawnve(os.P_WAIT, argv[0], argv, {**os.environ, "REFMOUNT_CACHE_DIR": str(cache)}) == 0:
                    break
    for cache in (workplace.cache, workplace.full_cache):
        with contextlib.suppress(OSError, ValueError):
            owner = int((cache / "owner.lock").read_text())
            if str(workplace.root) in Path(f"/proc/{owner}/environ").read_text(errors="replace"):
                end_owner(owner)


def write(directory: Path, facts, cases, records, commands):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    raw = {"facts": facts, "results": records, "commands": commands}
    (directory / "results.json").write_text(json.dumps(raw, indent=1) + "\n")
    (directory / "README.md").write_text(report.markdown(facts, cases, records, commands))
    title = f"Ratio to the baseline: {facts['model']}, {facts['rounds']} rounds, {facts['name']}"
    (directory / "chart.svg").write_text(chart.svg(title, cases, records))
    (directory / "overview.svg").write_text(chart.overview(title, cases, records))


def micro_benchmarks(repository, file):
    """What criterion prints of each; without what it remembers of earlier runs."""
    argv = ["cargo", "bench", "--locked", "--quiet", "--bench", "micro"]
    with tempfile.TemporaryDirectory() as memory:
        environment = {**os.environ, "CRITERION_HOME": memory}
        done = subprocess.run(argv, cwd=repository, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    file.write_text(done.stdout)


if __name__ == "__main__":
    main()
