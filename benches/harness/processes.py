"""Commands, how long they take, and what memory and processor time they, or processes that go on, have used."""

import os
import subprocess
import time
from dataclasses import dataclass, field

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0

    def beside(self, other):
        """Of both, running at the same time."""
        return Usage(self.cpu_seconds + other.cpu_seconds, self.peak_mib + other.peak_mib)

    def after(self, other):
        """Of both, one after the other."""
        return Usage(self.cpu_seconds + other.cpu_seconds, max(self.peak_mib, other.peak_mib))


@dataclass
class Finished:
    seconds: float
    usage: Usage
    stdout: str = ""


@dataclass
class CommandLog:
    """The commands that a contestant has run, as they can be typed, with the places of this run left out."""

    names: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)

    def note(self, argv, suffix=""):
        line = " ".join(_quoted(str(word)) for word in argv) + suffix
        for place, name in self.names.items():
            line = line.replace(place, name)
        if line not in self.lines:
            self.lines.append(line)

    def take(self):
        lines, self.lines = self.lines, []
        return lines


def _quoted(word):
    word = word.replace("\n", "\\n")
    return word if word and not set(word) & set(" \t\\'\"$&|<>;()*?") else "'" + word.replace("'", "'\\''") + "'"


def reap(process):
    """Waits for a process, and returns what it and its reaped children used."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def end_process(process):
    """One that does not listen is not waited for without end."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Commands:
    """Runs commands, and notes them in its log. Those that are under way when the run is ended go by `end`, before what
    they read is unmounted."""

    def __init__(self, log):
        self.log = log
        self.started = []

    def _start(self, argv, **options):
        self.started = [process for process in self.started if process.returncode is None]
        process = subprocess.Popen([str(word) for word in argv], **options)
        self.started.append(process)
        return process

    def end(self):
        for process in self.started:
            if process.returncode is None:
                end_process(process)

    def run(self, argv, stdout=subprocess.DEVNULL, env=None, cwd=None):
        """Runs one command; `stdout` may be a path, `subprocess.PIPE` for its text, or a descriptor."""
        return self.run_together([argv], stdout=stdout, env=env, cwd=cwd)

    def run_together(self, commands, stdout=subprocess.DEVNULL, env=None, cwd=None):
        """Runs commands at the same time, and waits for all of them."""
        environment = None if env is None else {**os.environ, **env}
        target = open(stdout, "wb") if isinstance(stdout, (str, os.PathLike)) else stdout
        suffix = f" > {stdout}" if isinstance(stdout, (str, os.PathLike)) else ""
        suffix += " &" if len(commands) > 1 else ""
        start = time.perf_counter()
        processes = []
        for argv in commands:
            self.log.note(argv, suffix)
            processes.append(self._start(argv, stdin=subprocess.DEVNULL, stdout=target, env=environment, cwd=cwd))
        text = ""
        if stdout == subprocess.PIPE:
            text = "".join(process.stdout.read().decode() for process in processes)
        usage = Usage()
        for process in processes:
            usage = usage.beside(reap(process))
        seconds = time.perf_counter() - start
        if target is not stdout:
            target.close()
        for process, argv in zip(processes, commands):
            if process.returncode != 0:
                raise RuntimeError(f"{' '.join(map(str, argv))} ended with {process.returncode}")
        return Finished(seconds, usage, text)

    def pipe(self, first, second, stdout=subprocess.DEVNULL):
        """Runs `first | second`."""
        self.log.note(first, " | " + " ".join(map(str, second)))
        target = open(stdout, "wb") if isinstance(stdout, (str, os.PathLike)) else stdout
        start = time.perf_counter()
        writer = self._start(first, stdout=subprocess.PIPE)
        reader = self._start(second, stdin=writer.stdout, stdout=target)
        writer.stdout.close()
        usage = reap(writer).beside(reap(reader))
        if writer.returncode or reader.returncode:
            raise RuntimeError(f"{first[0]} | {second[0]} failed")
        return Finished(time.perf_counter() - start, usage)

    def load(self, interpreter, script, arguments):
        """Runs a script of benches/loads once for each of `arguments`, all at once. The time begins when every one
        of them has started and imported what it needs. Returns it, and what they print."""
        workers = []
        for argument in arguments:
            argv = [str(interpreter), str(script), *map(str, argument)]
            self.log.note(argv, " &" if len(arguments) > 1 else "")
            workers.append(self._start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for worker in workers:
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"{script} did not start")
        start = time.perf_counter()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        printed = [worker.stdout.readline().strip() for worker in workers]
        seconds = time.perf_counter() - start
        for worker in workers:
            worker.stdin.close()
            if worker.wait() != 0:
                raise RuntimeError(f"{script} ended with {worker.returncode}")
        return seconds, printed


class Service:
    """A process that goes on until it is stopped."""

    def __init__(self, argv, log_file, **options):
        self.log_file = log_file
        with open(log_file, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL, stderr=log, **{"stdout": log, **options}
            )

    def check(self):
        if self.process.poll() is not None:
            with open(self.log_file, errors="replace") as log:
                raise RuntimeError(f"{self.process.args[0]} has ended; it said:\n{log.read()}")

    def wait_for(self, condition, timeout_seconds=30.0, pause_seconds=0.02):
        """What `condition` returns as soon as that is something."""
        give_up = time.monotonic() + timeout_seconds
        while time.monotonic() < give_up:
            found = condition()
            if found:
                return found
            self.check()
            time.sleep(pause_seconds)
        raise RuntimeError(f"{self.process.args[0]} is not ready after {timeout_seconds} s")

    def stop(self):
        end_process(self.process)


def usage_of_tree(pid):
    """What a process and its children have used so far; memory is the sum of their peaks."""
    usage = Usage()
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        pids = [pid, *map(int, children.read().split())]
    for each in pids:
        with open(f"/proc/{each}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        # utime and stime, with those of reaped children where they are not looked at themselves.
        ticks = sum(map(int, fields[11:15]))
        with open(f"/proc/{each}/status") as status:
            peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
        usage = usage.beside(Usage(ticks / TICKS_PER_SECOND, peak_kib / 1024))
    return usage
