"""The fuzzing campaign: what no user would write, in the hundred thousands, to every door of the package.

    python tests/fuzz/campaign.py --cases 100000 --seed 0 --jobs 2

Every case is a target (a reader, a function, a command), a number and the seed, which together make its input.  Workers
run the cases one by one with a limit on memory and on time; one that dies or hangs is replaced, and counts as a failure
of the case that it ran.  An input must be refused by a documented error, or give a right result; everything else is a
failure: it is written into a folder of its own (--out), with its input and its traceback, and

    python tests/fuzz/campaign.py --seed 0 --only TARGET --first NUMBER --cases 1 --here

repeats it in one process.  The table at the end counts cases, refusals, results and failures; the exit status is 1 if
there are any.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    # The folder of the tests, and of the checkout unless the package is installed
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    sys.path += [str(Path(__file__).resolve().parents[2])]

SECONDS = 10
MEMORY = 1 << 30
CHUNK = 200


def targets():
    from fuzz import calls, commands, files  # noqa: F401
    from fuzz.harness import TARGETS

    return TARGETS


def run_case(name, number, seed, folder):
    """(whether accepted or None, words) of one case; None is a failure, and the words say what it was."""
    from fuzz.harness import TARGETS, Case

    case = Case(np.random.default_rng([seed, zlib.crc32(name.encode()), number]), folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accepted = TARGETS[name].run(case)
        return bool(accepted), ""
    except Exception as error:
        last = "".join(traceback.format_exception(error))
        return None, "\n".join([f"{type(error).__name__}: {error}", *case.notes, last])


def limit_memory(extra=MEMORY):
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + extra, resource.getrlimit(resource.RLIMIT_AS)[1]))


def work(seed, folder, only):
    """Read lines "TARGET FIRST STOP", write a line before and after each case."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)
    log = open(folder / "stacks.txt", "w+")  # noqa: SIM115
    os.dup2(log.fileno(), 2)
    faulthandler.enable(log)
    for target in targets().values():
        if only and target.name not in only:
            continue
        # What a target imports at its first case counts neither as time nor as memory
        for number in range(3):
            _one(target.name, 10**9 + number, seed, folder)
    limit_memory()
    answers.write("ready\n")
    for line in sys.stdin:
        name, first, stop = line.split()
        for number in range(int(first), int(stop)):
            answers.write(f"> {number}\n")
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=log)
            accepted, words = _one(name, number, seed, folder)
            faulthandler.cancel_dump_traceback_later()
            if accepted is None:
                shutil.rmtree(folder / "failed", ignore_errors=True)
                os.rename(folder / "case", folder / "failed")
            answers.write(json.dumps([number, accepted, words[:20000]]) + "\n")
            if accepted is None:
                # Until its files were copied
                sys.stdin.readline()
            if accepted is None and "MemoryError" in words:
                os._exit(0)
        answers.write("next\n")


def _one(name, number, seed, folder):
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with contextlib.chdir(place):  # where a word that is taken for a path makes a file
        return run_case(name, number, seed, place)


class Worker:
    """A process and its folder."""

    def __init__(self, seed, only):
        self.folder = Path(tempfile.mkdtemp(prefix="bioperf-fuzz-"))
        command = [sys.executable, str(Path(__file__).resolve()), "--work", str(self.folder), "--seed", str(seed)]
        command += [word for name in only or () for word in ("--only", name)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self.buffer = b""
        if self.line(600) != "ready":
            words = (self.folder / "stacks.txt").read_text(errors="replace")
            self.end()
            raise RuntimeError(f"the worker does not start: {words[-2000:]}")

    def line(self, seconds):
        """The next line, or None after that time or the process's end."""
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                return None
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def send(self, *words):
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.stdin.flush()

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        status = self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return status


class Campaign:
    """The counts of outcomes by target, and the failures."""

    def __init__(self, seed, out, only=None):
        self.seed, self.out, self.only = seed, out, only
        self.counts, self.failed, self.lock = Counter(), [], threading.Lock()
        self.slowest, self.late = {}, set()

    def outcome(self, name, number, accepted, words, folder, seconds=0.0):
        with self.lock:
            kind = {True: "accepted", False: "refused", None: "failed"}[accepted]
            self.counts[name, kind] += 1
            self.slowest[name] = max(self.slowest.get(name, (0.0, 0)), (seconds, number))
            if accepted is not None:
                return
            self.failed.append((name, number))
            first = (words.splitlines() or [""])[0][:200]
            print(f"FAILED {name} {number}: {first}", flush=True)
            place = self.out / f"{name}-{number}"
            place.mkdir(parents=True, exist_ok=True)
            command = (
                f"python tests/fuzz/campaign.py --seed {self.seed} --only {name} --first {number} --cases 1 --here"
            )
            (place / "report.txt").write_text(f"{command}\n\n{words}\n", errors="replace")
            for path in folder.rglob("*") if folder.is_dir() else ():
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                        (place / f"{path.name.encode(errors='replace').decode()[:80]}").write_bytes(path.read_bytes())

    def serve(self, chunks):
        """One worker after another until no chunk is left."""
        worker = None
        try:
            while True:
                try:
                    name, first, stop = chunks.get_nowait()
                except queue.Empty:
                    return
                while first < stop:
                    worker = worker or Worker(self.seed, self.only)
                    first, worker = self.run(worker, name, first, stop)
        finally:
            if worker is not None:
                worker.end()

    def run(self, worker, name, first, stop):
        """Cases from ``first`` on; where to go on, and the worker or None if it is lost."""
        worker.send(name, first, stop)
        number, begin = first - 1, time.monotonic()
        while True:
            line = worker.line(SECONDS + 20)
            if line is None:
                number = max(number, first)
                words = f"the process died or hung\n{_tail(worker.folder / 'stacks.txt')}"
                if "Timeout (" in words and (name, number) not in self.late:
                    # A machine that is busy with other things looks the same: once more, by a process of its own
                    self.late.add((name, number))
                    worker.end()
                    return number, None
                self.outcome(name, number, None, words, worker.folder / "case", time.monotonic() - begin)
                worker.end()
                return number + 1, None
            if line == "next":
                return stop, worker
            if line.startswith(">"):
                number, begin = int(line[2:]), time.monotonic()
                continue
            number, accepted, words = json.loads(line)
            self.outcome(name, number, accepted, words, worker.folder / "failed", time.monotonic() - begin)
            if accepted is None:
                worker.send("go on")
            if accepted is None and "MemoryError" in words:
                worker.end()
                return number + 1, None

    def table(self, seconds):
        rows = [("target", "cases", "refused", "accepted", "failures", "slowest")]
        names = sorted({name for name, _ in self.counts})
        total = Counter()
        for name in names:
            found = [self.counts[name, kind] for kind in ("refused", "accepted", "failed")]
            total.update(dict(zip(("refused", "accepted", "failed"), found, strict=True)))
            slowest, number = self.slowest[name]
            rows.append((name, sum(found), *found, f"{slowest:.1f} s ({number})"))
        found = [total[kind] for kind in ("refused", "accepted", "failed")]
        rows.append(("all", sum(found), *found, f"{seconds:.0f} s in all"))
        widths = [max(len(str(row[k])) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _tail(path):
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-4000:]
    return ""


def shares(cases, only, first=0):
    """(target, first, stop) of so many cases in all, by the targets' shares."""
    chosen = [t for t in targets().values() if not only or t.name in only]
    if not chosen:
        raise SystemExit(f"--only: choose from {', '.join(targets())}")
    whole = sum(t.share for t in chosen)
    counts = [max(1, int(cases * t.share / whole)) for t in chosen]
    counts[0] += max(0, cases - sum(counts))
    return [(t.name, first, first + count) for t, count in zip(chosen, counts, strict=True)]


def here(parts, seed):
    """The cases in this process, for a debugger; the failures' words."""
    failures, counts = [], Counter()
    with tempfile.TemporaryDirectory(prefix="bioperf-fuzz-") as folder:
        for name, first, stop in parts:
            for number in range(first, stop):
                accepted, words = _one(name, number, seed, Path(folder))
                counts[name, accepted] += 1
                if accepted is None:
                    failures.append(f"{name} {number}: {words}")
    return failures, counts


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--only", action="append", metavar="TARGET", help="these targets only")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="the number of the first case")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="where failing cases are kept")
    parser.add_argument("--here", action="store_true", help="in this process, without limits")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        return work(options.seed, options.work, options.only)
    parts = shares(options.cases, options.only, options.first)
    if options.here:
        failures, _ = here(parts, options.seed)
        print("\n\n".join(failures) or "no failure")
        return bool(failures)
    chunks = queue.Queue()
    pieces = [(n, k, min(k + CHUNK, stop)) for n, first, stop in parts for k in range(first, stop, CHUNK)]
    # In turn, so that what remains at the end is not one slow target's
    for piece in sorted(pieces, key=lambda piece: (piece[1], piece[0])):
        chunks.put(piece)
    campaign, begin = Campaign(options.seed, options.out, options.only), time.monotonic()
    threads = [threading.Thread(target=campaign.serve, args=(chunks,)) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(campaign.table(time.monotonic() - begin))
    return bool(campaign.failed)


if __name__ == "__main__":
    sys.exit(main())
