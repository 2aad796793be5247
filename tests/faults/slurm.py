"""A Slurm of several nodes on loopback, with all its files below one directory."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_CONF = """
ClusterName=halving
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={there}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={there}/state
SlurmdSpoolDir={there}/spool.%n
SlurmctldPidFile={there}/slurmctld.pid
SlurmdPidFile={there}/slurmd.%n.pid
SlurmctldLogFile={there}/slurmctld.log
SlurmdLogFile={there}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
KillWait=5
SlurmdTimeout=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=10
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=off
"""

absent = ", ".join(name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None) or (
    "root's rights" if os.geteuid() else ""
)


@contextmanager
def cluster(there: Path, nodes: int) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Begin one whose nodes n1, n2, ... have a core each; give its daemons by name. SLURM_CONF is then in `there`."""
    (there / "state").mkdir()
    (there / "munge.key").touch(0o400)
    (there / "munge.key").write_bytes(secrets.token_bytes(1024))
    here = f"NodeHostname={socket.gethostname().partition('.')[0]} NodeAddr=127.0.0.1 CPUs=1 RealMemory=2000"
    lines = [f"NodeName=n{i + 1} {here} Port={port()}" for i in range(nodes)]
    conf, partitions = _CONF.format(port=port(), there=there).split("PartitionName", 1)
    (there / "slurm.conf").write_text("\n".join([conf, *lines, f"PartitionName{partitions}"]))
    munge = [f"--{name}={there / file}" for name, file in (("key-file", "munge.key"), ("socket", "munge.socket"))]
    munge += [f"--{name}={there}/munged.{name}" for name in ("pid-file", "log-file", "seed-file")]
    env = {**os.environ, "SLURM_CONF": str(there / "slurm.conf")}
    daemons = {"munged": daemon("munged", "--foreground", "--force", *munge)}
    try:
        wait_for((there / "munge.socket").exists)
        daemons["slurmctld"] = daemon("slurmctld", "-D", "-c", "-f", there / "slurm.conf")
        for i in range(nodes):
            daemons[f"n{i + 1}"] = daemon("slurmd", "-D", "-N", f"n{i + 1}", "-f", there / "slurm.conf")
        look = ["sinfo", "-h", "-N", "-p", "low", "-t", "idle"]
        wait_for(lambda: subprocess.run(look, env=env, capture_output=True, check=False).stdout.count(b"\n") == nodes)
        yield daemons
    finally:
        subprocess.run(["scancel", "--signal=KILL", "--full", "--me"], env=env, timeout=60, check=False)
        time.sleep(0.5)
        for each in reversed(daemons.values()):
            each.terminate()
        for each in daemons.values():
            with suppress(subprocess.TimeoutExpired):
                each.wait(5)  # longer, if a job was in the midst of something
            each.kill()
            each.wait()


def daemon(name: str, *words: object) -> subprocess.Popen[bytes]:
    program = shutil.which(name, path=_PATH)
    assert program is not None
    quiet = subprocess.DEVNULL
    return subprocess.Popen([program, *map(str, words)], stdin=quiet, stdout=quiet, stderr=quiet)


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as end:
        return end.getsockname()[1]


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
