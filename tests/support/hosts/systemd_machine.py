"""A machine that systemd has booted: in namespaces of its own, on a copy-on-write view of this file system."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support.engine.daemon import UnavailableError, static_busybox

ROOT = Path(__file__).parents[3]
SYSTEMD = "/lib/systemd/systemd"
BOOT_SECONDS = 60
ADDRESS = "10.99.0.1"
"""Of the machine, for callers inside its network namespace."""

PREFIX = "anvyl-systemd-"
SWEEP_AGE = 60
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it is killed when the test run ends, in whatever way."""

HOLD = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/docker
hostname box
ip link set lo up
ip address add {address}/24 dev lo
touch {folder}/ready
exec sleep infinity
"""
BOOT = """
set -e
root={folder}/root
mkdir -p $root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys -o ro
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs tmpfs $root/run -o mode=755
mount -t tmpfs tmpfs $root/tmp -o mode=1777
mount -t tmpfs tmpfs $root/dev -o mode=755
mkdir $root/dev/pts $root/dev/shm
for device in null zero full random urandom tty; do
  touch $root/dev/$device
  mount --bind /dev/$device $root/dev/$device
done
mount -t devpts devpts $root/dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
mount -t tmpfs tmpfs $root/dev/shm
for place in {places}; do
  mkdir -p $root$place
  mount --bind $place $root$place
done
# Nothing of this machine starts there but what the tests install.
if [ ! -e $root/etc/anvyl-test ]; then
  rm -f $root/etc/systemd/system/*.wants/*.{{service,socket,timer}}
  # This machine may itself be made from an image.
  rm -f $root/.dockerenv $root/run/.containerenv
  touch $root/etc/anvyl-test
fi
mkdir -p $root/var/lib/docker
mount --bind {folder}/docker $root/var/lib/docker
cd $root
pivot_root . mnt
cd /
umount -l /mnt
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --unit=multi-user.target --log-target=journal
"""


class SystemdMachine:
    """`with SystemdMachine() as machine:` boots it; `run` runs a command in it, `reboot` keeps its files."""

    def __enter__(self) -> SystemdMachine:
        _check_requirements()
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self._cgroup = _cgroup_mount() / self.folder.name
        self._cgroup.mkdir()
        self._init: subprocess.Popen[bytes] | None = None
        hold = HOLD.format(folder=self.folder, address=ADDRESS)
        namespaces = [*ENDS_WITH_US, "unshare", "--mount", "--net", "--uts", "--kill-child", "--fork"]
        self._holder = subprocess.Popen([*namespaces, "bash", "-c", hold], start_new_session=True)
        try:
            self._outer = _child_of(self._holder.pid)
            _wait_until(lambda: Path(f"/proc/{self._outer}/root{self.folder}/ready").exists(), "its namespaces")
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()
        for process in (self._outer, self._holder.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)
        self._holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        _remove_cgroup(self._cgroup)

    def boot(self) -> None:
        """Boot, and wait until systemd has started everything.

        Raises:
            UnavailableError: systemd does not boot here.
        """
        script = BOOT.format(folder=self.folder, systemd=SYSTEMD, places=" ".join(_other_mounts()))
        join = f"echo $$ > {self._cgroup}/cgroup.procs; exec nsenter --target {self._outer} --mount --net --uts -- "
        inner = ["unshare", "--mount", "--pid", "--ipc", "--cgroup", "--fork", "--kill-child", "bash", "-c", script]
        self._init = subprocess.Popen(
            [*ENDS_WITH_US, "bash", "-c", join + shlex.join(inner)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait_until(self._booted, "systemd")
        self.run("systemctl", "is-system-running", "--wait", check=False)

    def power_off(self) -> None:
        """End all processes of the machine at once, as in a power failure."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError, UnavailableError):
                os.kill(_child_of(self._init.pid), 9)
            self._init.kill()
            self._init.wait()
            self._init = None

    def reboot(self) -> None:
        """Power failure, and boot."""
        self.power_off()
        self.boot()

    def prefix(self, *, user: str = "") -> list[str]:
        """Return the words before a command that run it in the machine."""
        assert self._init is not None
        inside = ["nsenter", "--target", str(_child_of(self._init.pid)), "--all", "--root", "--wd", "--"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"]
        if user:
            environment[-1] = f"HOME=/home/{user}"
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*inside, *environment]

    def network_prefix(self) -> list[str]:
        """Return the words before a command that run it outside the machine, but in its network."""
        return ["nsenter", "--target", str(self._outer), "--net", "--"]

    def run(self, *command: str, user: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root or as another user."""
        done = subprocess.run(
            [*self.prefix(user=user), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done

    def start_engine(self) -> None:
        """Start the machine's own Docker engine, with one image: busybox."""
        self.run("systemctl", "start", "docker")
        make = "mkdir -p /tmp/image/bin; cp {0} /tmp/image/bin; tar -C /tmp/image -c . | docker import - busybox:latest"
        self.run("sh", "-c", make.format(static_busybox()))

    def _booted(self) -> bool:
        assert self._init is not None
        if self._init.poll() is not None:
            raise UnavailableError("systemd ended while it booted")
        with contextlib.suppress(UnavailableError):
            return Path(f"/proc/{_child_of(self._init.pid)}/root/run/systemd/private").exists()
        return False


def _check_requirements() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UnavailableError("a machine with systemd needs root on Linux")
    for program in (SYSTEMD, "systemctl", "unshare", "nsenter", "setpriv", "ip"):
        if not shutil.which(program):
            raise UnavailableError(f"a machine with systemd needs `{program}`")


def _sweep() -> None:
    """Remove what machines left whose test run was killed; their processes ended with it."""
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    for cgroup in _cgroup_mount().glob(f"{PREFIX}*"):
        if not any(cgroup.name in command for command in commands) and time.time() - cgroup.stat().st_mtime > SWEEP_AGE:
            shutil.rmtree(f"/tmp/{cgroup.name}", ignore_errors=True)
            _remove_cgroup(cgroup)


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup and those below it, once the kernel has reaped their processes."""
    deadline = time.monotonic() + 5
    while cgroup.exists() and time.monotonic() < deadline:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        time.sleep(0.02)  # there is no event for it


def _cgroup_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise UnavailableError("a machine with systemd needs cgroup v2")


def _other_mounts() -> list[str]:
    """Folders of the project and of Python that are not on the root file system, which the overlay would not show."""
    device = Path("/").stat().st_dev
    return [str(path) for path in (ROOT, Path(sys.base_prefix)) if path.stat().st_dev != device]


def _child_of(pid: int) -> int:
    """Return the only child of a process, once it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 5
    while not (words := children.read_text(encoding="ascii").split() if children.exists() else []):
        if time.monotonic() > deadline:
            raise UnavailableError("the namespaces of the machine could not be made")
        time.sleep(0.02)  # there is no event for a new process
    return int(words[0])


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} did not start within {BOOT_SECONDS} s")
        time.sleep(0.05)  # there is no event for it
