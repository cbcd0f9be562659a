"""A Slurm cluster of one node for the tests: munged, slurmctld and slurmd with a configuration of their own.

Everything lies in one temporary folder, the ports are free ones, and the system's Slurm and MUNGE are neither read nor
changed. The daemons belong to a keeper, a process of its own that also adopts whatever a job leaves behind; it ends
them all and removes the folder when told, or when the process that started it has gone, killed included.

By hand, as root, until Ctrl-D or Ctrl-C:  python tests/slurm_cluster.py
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Cluster", "missing"]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
CPUS, GRACE = 4, 60
# Debian's daemons lie where a user's PATH may not lead.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

# No accounting, no control groups and no task binding: none of them is to be had in every container. The node claims
# more processors than the machine may have, and a GPU that is none, so that requests for them can be met.
CONFIGURATION = """\
ClusterName=bioperf
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
KillWait=10
MinJobAge=86400
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4096 Gres=gpu:1 State=UNKNOWN
PartitionName=normal Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} DefMemPerCPU=512
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF DefMemPerCPU=512
"""


def missing():
    """Why no cluster can be started here, in words; None where one can be tried."""
    if sys.platform != "linux":
        return "a Slurm cluster is started on Linux only"
    if os.geteuid() != 0:
        return "a Slurm cluster is started by root only (slurmd runs jobs as their users)"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return f"Slurm is not installed: no {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)"
    return None


class Cluster:
    """One node of ``CPUS`` processors, in a ``with`` statement; RuntimeError says why it did not start.

    Partition ``normal`` is the default; a job in ``urgent`` preempts its jobs: they get SIGTERM, and are requeued
    after ``GRACE`` seconds at most. ``folder`` holds configuration and logs, ``environment`` is that of the cluster's
    users: commands run with it (``run``) reach this cluster and no other.
    """

    def __enter__(self):
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", __file__, "--keep"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_clean_environment(), start_new_session=True,
        )  # fmt: skip
        answer = self._keeper.stdout.readline()
        state = json.loads(answer) if answer else {"error": "the process that keeps it has died"}
        if "error" in state:
            self.__exit__()
            raise RuntimeError(state["error"])
        self.folder = Path(state["folder"])
        self.environment = _clean_environment() | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        return self

    def __exit__(self, *_):
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()

    def run(self, *command, environment=None, timeout=60, check=True, **options):
        """The completed process of a command; with ``check``, a failure is an AssertionError with what it wrote."""
        done = subprocess.run(
            [str(part) for part in command], env=self.environment | (environment or {}), timeout=timeout,
            capture_output=True, text=True, **options,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def submit(self, *arguments, **options):
        """``sbatch`` with these arguments; returns the job's number (of an array: that of the whole)."""
        return int(self.run("sbatch", "--parsable", *arguments, **options).stdout.split(";")[0])

    def tasks(self, job):
        """The job, or each task of its array by number: a dict of dicts of what ``scontrol show job`` says."""
        lines = self.run("scontrol", "-o", "show", "job", job).stdout.splitlines()
        rows = [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines if line.strip()]
        # Tasks that were not started yet share a line, with a range for a number.
        return {row.get("ArrayTaskId", "0"): row for row in rows}

    def wait(self, job, *, until=lambda tasks: all(_finished(task) for task in tasks.values()), timeout=60):
        """Wait until a condition on ``tasks(job)``, by default that all have ended, holds; returns them.

        A requeued job is let in after two seconds instead of the two minutes that Slurm holds it back; any earlier, its
        new credential may count as the old one, which was revoked.
        """
        limit = time.monotonic() + timeout
        held = {}
        while True:
            tasks = self.tasks(job)
            if until(tasks):
                return tasks
            for task in tasks.values():
                if task["JobState"] == "PENDING" and task["Reason"] == "BeginTime":
                    # by its name in the array: the number of the last task stands for all of them
                    number = f"{job}_{task['ArrayTaskId']}" if "ArrayTaskId" in task else job
                    if time.monotonic() > held.setdefault((number, task["Restarts"]), time.monotonic() + 2):
                        self.run("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
            if time.monotonic() > limit:
                states = {name: f"{task['JobState']} ({task['Reason']})" for name, task in tasks.items()}
                raise TimeoutError(f"job {job} after {timeout} s: {states}\n{self.logs()}")
            time.sleep(0.1)

    def processes(self, task):
        """Numbers of a running task's processes below its batch script and its steps, of ``tasks`` or a job number."""
        job = task if isinstance(task, int) else task["JobId"]
        listing = self.run("scontrol", "listpids", job, check=False).stdout.splitlines()[1:]
        return [int(line.split()[0]) for line in listing if line.split()[2] not in ("batch", "extern")]

    def logs(self, lines=30):
        """The last lines of the daemons' logs."""
        return _logs(self.folder, lines)


def _finished(task):
    return task["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


def _clean_environment():
    """This process's environment without what a surrounding Slurm job would tell another cluster's commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    return kept | {"PATH": PATH}


def _logs(folder, lines):
    texts = []
    for path in sorted(folder.glob("*.out")):
        # what a daemon says before it has read where its log lies goes to its output alone
        log = path.with_suffix(".log")
        tail = (log if log.exists() else path).read_text(errors="replace").splitlines()[-lines:]
        texts.append("\n".join([f"{path.stem}:", *tail]))
    return "\n".join(texts)


def _keep():
    """The keeper: start the daemons, say where on standard output, and end them at the end of standard input."""
    libc = ctypes.CDLL(None)
    parent = os.getppid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    folder = Path(tempfile.mkdtemp(prefix="bioperf-slurm-"))
    try:
        try:
            _start(folder)
            state = {"folder": str(folder)}
        except RuntimeError as error:
            state = {"error": str(error)}
        print(json.dumps(state), flush=True)
        while "error" not in state and os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], 0.5)
            if readable and not os.read(0, 4096):
                break
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder):
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "plugstack.conf").touch()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    host = socket.gethostname().split(".")[0]
    ports = []
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
    settings = CONFIGURATION.format(
        host=host, folder=folder, controller_port=ports[0], node_port=ports[1], cpus=CPUS, grace=GRACE
    )
    (folder / "slurm.conf").write_text(settings)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")

    options = ("--key-file", key, "--socket", folder / "munge.socket", "--pid-file", folder / "munged.pid")
    options += ("--seed-file", folder / "munged.seed")
    _daemon(folder, "munged", "--foreground", *options)
    _wait(folder, "munged", (folder / "munge.socket").is_socket)
    _daemon(folder, "slurmctld", "-D")
    _daemon(folder, "slurmd", "-D", "-N", host)
    _wait(folder, "Slurm", lambda: _answer(folder, "sinfo", "--noheader", "--format=%T") == "idle")


def _environment(folder):
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}


def _daemon(folder, name, *options):
    with (folder / f"{name}.out").open("w") as log:
        subprocess.Popen(
            [shutil.which(name), *map(str, options)],
            cwd=folder, env=_environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _answer(folder, *command):
    try:
        done = subprocess.run(command, env=_environment(folder), capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip()


def _wait(folder, what, ready, seconds=60):
    limit = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > limit:
            raise RuntimeError(f"{what} did not start within {seconds} s; the logs end with\n{_logs(folder, 12)}")
        time.sleep(0.05)


def _end_descendants():
    """Kill every process that descends from this one, whoever its parent was, and wait for the last."""
    while True:
        for process in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _descendants(ancestor):
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # number (name) state parent ...; the name may hold blanks and parentheses
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, level = [], {ancestor}
    while level:
        level = {process for process, parent in parents.items() if parent in level}
        found += level
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--keep"]:
        _keep()
    elif (reason := missing()) is not None:
        sys.exit(reason)
    else:
        with Cluster() as cluster:
            print(f"export SLURM_CONF={cluster.folder / 'slurm.conf'}", flush=True)
            with suppress(KeyboardInterrupt):
                sys.stdin.read()
