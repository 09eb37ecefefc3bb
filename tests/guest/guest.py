#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""guest.py [OPTION...] [--] COMMAND [ARG...]

Boots Debian's kernel under qemu's software emulation with the host's root below it (what the guest writes stays in its
memory), runs COMMAND there in the current folder, shows its output as it comes and ends with its exit status; 124: it
ran past --seconds; 125: the guest failed, with a sentence and the console's last lines; 77: no guest can be had here."""
import argparse
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import image

BOOT_SECONDS = 90  # 3 s on an idle machine, 40 on one with eight times too much to do
BOOTS = 2  # on a machine as busy as that the kernel's look at its emulated timers may go wrong
CONSOLE_LINES = 12
FAILED, SKIPPED = 125, 77
PCI = ("0000:00:10.0", "0000:00:11.0")
PASSED_ON = ("KVW_", "KVE_", "KVWIRE_", "XDG_", "ASAN_", "UBSAN_", "MALLOC_", "DPDK_", "PYTHON")


class Failed(Exception):
    """The guest (not the command in it) failed."""


class Guest:
    """One guest: start(), then poll() until it is not None, and close() in any case."""

    def __init__(self, name="guest", memory=1024, cpus=2, seconds=120, setup=(), env=None, qemu=(), append=""):
        self.name, self.memory, self.cpus, self.seconds = name, memory, cpus, seconds
        self.setup, self.env, self.qemu, self.append = list(setup), dict(env or {}), list(qemu), append
        self.proc, self.job, self.started, self.up_at = None, None, 0.0, None
        self.offsets, self.args, self.pass_fds, self.boots = {}, [], (), 0

    def write(self, name, text):
        with open(os.path.join(self.job, name), "w", encoding="utf-8") as f:
            f.write(text)

    def environment(self, modules):
        env = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        env["HOME"] = os.path.expanduser("~")
        env.update(self.env)
        env.update({"KVW_GUEST": self.name, "KVW_GUEST_MODULES": modules, "KVW_GUEST_SECONDS": str(self.seconds),
                    "KVW_PCI0": PCI[0], "KVW_PCI1": PCI[1]})
        return "".join("export %s=%s\n" % (k, shlex.quote(v)) for k, v in env.items())

    def start(self, command, pass_fds=()):
        """Boots; COMMAND is an argv. Raises image.Unavailable."""
        kernel, modules = image.get()
        self.job = tempfile.mkdtemp(prefix="kvw-guest-")
        self.write("setup", " ".join(self.setup))
        self.write("env", self.environment(modules))
        self.write("command", "exec " + shlex.join(command) + "\n")
        self.write("cwd", os.getcwd())
        self.write("inside", os.path.join(image.HERE, "inside.sh"))
        for name in ("stdout", "stderr", "console"):
            self.write(name, "")
            self.offsets[name] = 0
        with open(os.path.join(self.job, "initramfs"), "wb") as f:
            f.write(image.initramfs(modules))
        words = "console=ttyS0 loglevel=4 panic=-1 oops=panic nowatchdog no_timer_check random.trust_cpu=on mitigations=off " \
            "tsc=reliable clocksource=tsc " + self.append  # else each look at the clock is a call into qemu's HPET
        self.pass_fds = pass_fds
        self.args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-machine", "pc,usb=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(self.memory),
                "-smp", str(self.cpus), "-kernel", kernel, "-initrd", os.path.join(self.job, "initramfs"),
                "-append", words, "-serial", "file:" + os.path.join(self.job, "console"),
                "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
                "-virtfs", "local,path=%s,mount_tag=job,security_model=none" % self.job] + self.qemu
        self.boot()

    def boot(self):
        with open(os.path.join(self.job, "qemu"), "wb") as log:
            self.proc = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=self.pass_fds)
        self.started = time.monotonic()
        self.boots += 1

    def path(self, name):
        return os.path.join(self.job, name)

    def text(self, name):
        with open(self.path(name), errors="replace", encoding="utf-8") as f:
            return f.read()

    def fresh(self, name):
        """The bytes of stdout or stderr that have come since the last call."""
        with open(self.path(name), "rb") as f:
            f.seek(self.offsets[name])
            data = f.read()
        self.offsets[name] += len(data)
        return data

    def fail(self, what):
        """Raises Failed with the console's last lines, or those around a panic."""
        lines = [x for x in self.text("console").replace("\r", "").splitlines() if x.strip()] + \
            self.text("qemu").splitlines()
        panic = [i for i, x in enumerate(lines) if "Kernel panic" in x]
        if panic:
            what = lines[panic[0]].split("] ", 1)[-1]
            lines = lines[:panic[0] + CONSOLE_LINES // 2]
        raise Failed("%s: %s; its last lines:\n    %s" % (self.name, what, "\n    ".join(lines[-CONSOLE_LINES:]) or "(none)"))

    def poll(self):
        """The command's exit status, or None while it runs. Raises Failed."""
        ended = self.proc.poll() is not None  # asked before rc is looked for
        if os.path.exists(self.path("rc")):
            return int(self.text("rc"))
        now = time.monotonic()
        if self.up_at is None and os.path.exists(self.path("up")):
            self.up_at = now
        late = self.up_at is None and now > self.started + BOOT_SECONDS
        if self.up_at is None and (ended or late) and self.boots < BOOTS:  # the command hasn't begun
            self.proc.kill()
            self.proc.wait()
            self.boot()
        elif ended:
            self.fail("qemu ended (%d) without a result" % self.proc.returncode)
        elif late:
            self.fail("did not start within %d s, %d times" % (BOOT_SECONDS, BOOTS))
        if self.up_at is not None and now > self.up_at + self.seconds + 15:
            self.fail("hangs: no word %d s after the command's %d s" % (15, self.seconds))
        return None

    def close(self):
        if self.proc is not None and self.proc.poll() is None:
            self.proc.kill()
        if self.proc is not None:
            self.proc.wait()
        if self.job is not None:
            shutil.rmtree(self.job, ignore_errors=True)


def hub_nics():
    """Two virtio NICs of the modern kind on one hub: what one sends the other receives."""
    args = []
    for i, addr in enumerate(PCI):
        args += ["-netdev", "hubport,id=h%d,hubid=0" % i, "-device", "virtio-net-pci,disable-legacy=on,netdev=h%d,"
                 "addr=0x%s,mac=52:54:00:6b:76:0%d,host_mtu=9000,romfile=" % (i, addr[8:10], i + 1)]
    return args


def nap():
    select.select([], [], [], 0.02)


def on_signal(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, on_signal)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--memory", type=int, default=1024, metavar="MB")
    p.add_argument("--cpus", type=int, default=2)
    p.add_argument("--seconds", type=int, default=120, help="the command's time (120)")
    p.add_argument("--rxe", action="store_true", help="two RoCE devices, rxe0 (10.77.1.1) and rxe1 (10.77.1.2), on a veth pair")
    p.add_argument("--pci", action="store_true", help="two virtio NICs on one wire, bound to uio_pci_generic (their addresses: "
                   "$KVW_PCI0, $KVW_PCI1), and 256 hugepages")
    p.add_argument("--pci-unbound", action="store_true", help="the two NICs as the kernel leaves them, no hugepages")
    p.add_argument("--qemu", action="append", default=[], metavar="ARGS", help="more of qemu's arguments")
    p.add_argument("--append", default="", help="more of the kernel's command line")
    p.add_argument("command", nargs=argparse.REMAINDER)
    o = p.parse_args()
    command = o.command[1:] if o.command[:1] == ["--"] else o.command
    if not command:
        p.error("no command")
    qemu, setup, append, memory = [a for text in o.qemu for a in shlex.split(text)], [], o.append, o.memory
    if o.rxe:
        setup.append("rxe")
    if o.pci or o.pci_unbound:
        qemu += hub_nics()
    if o.pci:
        setup.append("pci")
        append += " hugepages=256"
        memory += 512
    guest = Guest(memory=memory, cpus=o.cpus, seconds=o.seconds, setup=setup, qemu=qemu, append=append)
    try:
        guest.start(command)
        status = None
        while status is None:
            nap()
            status = guest.poll()
            for name, out in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                out.buffer.write(guest.fresh(name))
                out.flush()
    except image.Unavailable as e:
        print("guest: %s" % e, file=sys.stderr)
        status = SKIPPED
    except Failed as e:
        print(e, file=sys.stderr)
        status = FAILED
    except KeyboardInterrupt:
        status = 130
    finally:
        guest.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
