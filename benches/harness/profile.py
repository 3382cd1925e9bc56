"""Where the processors' time goes while a contestant runs: perf samples of the whole machine, as a flame graph and as the
largest shares."""

import collections
import os
import re
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

PROGRAMS = ["perf", "inferno-collapse-perf", "inferno-flamegraph"]

# Not a divisor of what timers do.
SAMPLES_PER_SECOND = 299
# Enough of each stack to unwind what reads, writes and digests.
STACK_BYTES = 8192

# For an answer; for the end, in which it writes what it holds.
ANSWER_SECONDS_MAX = 30
END_SECONDS_MAX = 120

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
    """Samples of all processors, taken only while it is told to."""

    def __init__(self, directory):
        self.file = directory / "perf.data"
        self.file.unlink(missing_ok=True)
        control, answers = directory / "perf-control", directory / "perf-answers"
        for fifo in (control, answers):
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
        argv = ["perf", "record", "--quiet", "--all-cpus", f"--freq={SAMPLES_PER_SECOND}",
                f"--call-graph=dwarf,{STACK_BYTES}", f"--output={self.file}", "--delay=-1",
                f"--control=fifo:{control},{answers}"]
        # Ctrl-C is for who runs the benchmarks.
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        start_new_session=True)
        # For reading too: a perf that does not come to it must not be waited for.
        self.control = os.open(control, os.O_RDWR)
        self.answers = os.open(answers, os.O_RDWR | os.O_NONBLOCK)

    def enable(self):
        self._tell("enable")

    def disable(self):
        self._tell("disable")

    def _tell(self, what):
        os.write(self.control, what.encode() + b"\n")
        answer, deadline = b"", time.monotonic() + ANSWER_SECONDS_MAX
        while b"ack" not in answer:
            if time.monotonic() > deadline:
                raise RuntimeError(f"perf has not answered for {ANSWER_SECONDS_MAX} s")
            if self.process.poll() is not None:
                raise RuntimeError(f"perf has ended with {self.process.returncode}")
            if select.select([self.answers], [], [], 0.1)[0]:
                answer += os.read(self.answers, 100)

    def stop(self):
        os.close(self.control)
        os.close(self.answers)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def objection(directory):
    """Why nothing can be profiled here, or none."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} cannot be found"
    recorder = Recorder(Path(directory))
    try:
        recorder.enable()
    except RuntimeError as error:
        return f"{error}; it may be allowed by: sysctl kernel.perf_event_paranoid=-1"
    finally:
        recorder.stop()
    return None


def profile(workplace, title, run, svg):
    """Runs `run` under perf, draws it to `svg`, and returns the shares."""
    folded = workplace.root / "perf.folded"
    recorder = Recorder(workplace.root)
    workplace.recorder = recorder
    try:
        run()
    finally:
        workplace.recorder = None
        recorder.stop()
    commands = workplace.commands
    # What was inlined is left out: looking it up takes minutes.
    script = ["perf", "script", "--no-inline", f"--input={recorder.file}"]
    commands.pipe(script, ["inferno-collapse-perf"], stdout=folded)
    argv = ["inferno-flamegraph", f"--title={title}", f"--minwidth={SHOWN_PERCENT_MIN}", folded]
    commands.run(argv, stdout=svg)
    with open(folded, errors="replace") as lines:
        return Profile(lines)
