"""Where the processors' time goes while a contestant runs: perf samples of the whole machine, as a flame graph and as the
largest shares."""

import collections
import re
import signal
import subprocess

# Not a divisor of what timers do.
SAMPLES_PER_SECOND = 299
# Enough of each stack to unwind what reads, writes and digests.
STACK_BYTES = 8192

# In a flame graph: what takes less is part of what it was called by.
SHOWN_PERCENT_MIN = 0.4
PROCESSES_SHOWN = 8
SYMBOLS_SHOWN = 6
SHARE_MIN = 0.01


class Profile:
    """Shares of the time in which a processor did anything."""

    def __init__(self, folded_lines):
        self.samples = collections.Counter()
        self.symbols = collections.defaultdict(collections.Counter)
        for line in folded_lines:
            stack, _, count = line.rpartition(" ")
            frames = stack.split(";")
            process = common_name(frames[0])
            if process == "swapper":
                continue
            self.samples[process] += int(count)
            self.symbols[process][frames[-1]] += int(count)

    def markdown(self):
        total = sum(self.samples.values()) or 1
        lines = ["| share | process or thread | where (share of all) |", "|---|---|---|"]
        for process, count in self.samples.most_common(PROCESSES_SHOWN):
            if count / total < SHARE_MIN:
                break
            largest = ", ".join(
                f"`{symbol}` {of / total:.1%}"
                for symbol, of in self.symbols[process].most_common(SYMBOLS_SHOWN)
                if of / total >= SHARE_MIN
            )
            lines.append(f"| {count / total:.0%} | {process} | {largest} |")
        return lines


def common_name(process):
    """Of threads that do the same, one name."""
    return re.sub(r"(fuser|fuse-session)-\d+$", r"\1", process)


class Recorder:
    """Samples of all processors, from when a contestant finds the machine as it should until it has ended."""

    def __init__(self, file):
        self.file, self.process = file, None

    def start(self):
        if self.process is None:
            argv = ["perf", "record", "--quiet", "--all-cpus", f"--freq={SAMPLES_PER_SECOND}",
                    f"--call-graph=dwarf,{STACK_BYTES}", f"--output={self.file}"]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()


def profile(workplace, title, run, svg):
    """Runs `run` under perf, draws it to `svg`, and returns the shares."""
    data, folded = workplace.root / "perf.data", workplace.root / "perf.folded"
    recorder = Recorder(data)
    workplace.when_cold = recorder.start
    try:
        run()
    finally:
        workplace.when_cold = None
        recorder.stop()
    # What was inlined is left out: looking it up takes minutes.
    script = subprocess.Popen(["perf", "script", "--no-inline", f"--input={data}"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    with open(folded, "wb") as file:
        subprocess.run(["inferno-collapse-perf"], stdin=script.stdout, stdout=file, check=True)
    script.stdout.close()
    script.wait()
    with open(svg, "wb") as file:
        argv = ["inferno-flamegraph", f"--title={title}", f"--minwidth={SHOWN_PERCENT_MIN}", folded]
        subprocess.run(argv, stdout=file, check=True)
    with open(folded, errors="replace") as lines:
        return Profile(lines)
