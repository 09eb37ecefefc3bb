# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel and first file system: Debian's linux-image package, downloaded and unpacked (never installed)
into the cache, and an initramfs of busybox, init.sh and the modules that reach the root over 9p."""
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "kvwire", "guest")
BUSYBOX = "/bin/busybox"
# What mounts the root; depmod knows what each of them needs. The rest is loaded from the root when it is asked for.
FIRST_MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]
# The part of the package that is unpacked: 60 MB instead of 400.
WANTED = ["./boot/vmlinuz-*", "./lib/modules/*/modules.*"] + ["./lib/modules/*/kernel/" + p for p in (
    "arch/*", "crypto/*", "lib/*", "net/*", "fs/9p/*", "fs/configfs/*", "fs/fscache/*", "fs/netfs/*",
    "fs/overlayfs/*", "drivers/infiniband/*", "drivers/uio/*", "drivers/vfio/*", "drivers/virtio/*", "drivers/net/virtio_net.ko",
    "drivers/net/veth.ko", "drivers/net/net_failover.ko", "drivers/net/dummy.ko")]


class Unavailable(Exception):
    """No guest can be had here; the text is one sentence that says why."""


def run(args, why, **kw):
    try:
        out = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300, **kw)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable("%s: %s" % (why, e))
    if out.returncode != 0:
        raise Unavailable("%s: %s" % (why, (out.stderr.strip().splitlines() or ["exit status %d" % out.returncode])[-1]))
    return out.stdout


def package():
    """(name, version) of the kernel that linux-image-amd64 stands for today."""
    text = run(["apt-cache", "depends", "linux-image-amd64"], "apt knows no linux-image-amd64 (apt-get update?)")
    names = [line.split()[-1] for line in text.splitlines() if line.strip().startswith("Depends:")]
    if not names:
        raise Unavailable("apt knows no linux-image-amd64 (apt-get update?)")
    shown = run(["apt-cache", "show", "--no-all-versions", names[0]], "apt knows no " + names[0])
    version = [line.split()[-1] for line in shown.splitlines() if line.startswith("Version:")]
    return names[0], version[0].replace(":", "%3a")


def unpack(name, folder):
    """The wanted part of the package NAME under FOLDER, with modules.dep made."""
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=CACHE) as tmp:
        run(["apt-get", "download", name], "the package %s could not be downloaded" % name, cwd=tmp)
        deb = [f for f in os.listdir(tmp) if f.endswith(".deb")][0]
        root = os.path.join(tmp, "root")
        os.mkdir(root)
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", os.path.join(tmp, deb)], stdout=subprocess.PIPE) as tar:
            run(["tar", "-x", "-C", root, "--wildcards"] + WANTED, "%s could not be unpacked" % deb, stdin=tar.stdout)
        release = os.listdir(os.path.join(root, "lib", "modules"))[0]
        run(["/sbin/depmod", "-b", root, release], "depmod failed (is kmod installed?)")
        os.rename(root, folder)


def download(ours):
    """The folder's name in the cache, of today's kernel. apt's lists may be old, or none."""
    for again in (False, True):
        try:
            name, version = package()
            folder = "%s_%s_%s" % (name, version, ours)
            unpack(name, os.path.join(CACHE, folder))
            return folder
        except Unavailable:
            if again or os.geteuid() != 0:
                raise
            run(["apt-get", "update"], "apt-get update failed")
    raise AssertionError


def load_order(modules):
    """Paths under MODULES, each after those it depends on."""
    deps = {}
    with open(os.path.join(modules, "modules.dep"), encoding="ascii") as f:
        for line in f:
            path, needs = line.split(":", 1)
            deps[os.path.basename(path)[:-3].replace("-", "_")] = [path] + needs.split()
    order = []
    for name in FIRST_MODULES:
        if name not in deps:
            continue  # built in
        for path in reversed(deps[name]):
            if path not in order:
                order.append(path)
    return order


def cpio(entries):
    """A "newc" archive of (name, mode, bytes)."""
    out = bytearray()
    for i, (name, mode, data) in enumerate(entries + [("TRAILER!!!", 0, b"")]):
        head = [i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % v for v in head) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(modules):
    order = load_order(modules)
    entries = [(d, stat.S_IFDIR | 0o755, b"") for d in ("bin", "dev", "proc", "sys", "mnt", "modules")]
    with open(BUSYBOX, "rb") as f:
        entries.append(("bin/busybox", stat.S_IFREG | 0o755, f.read()))
    with open(os.path.join(HERE, "init.sh"), "rb") as f:
        entries.append(("init", stat.S_IFREG | 0o755, f.read()))
    for i, path in enumerate(order):
        with open(os.path.join(modules, path), "rb") as f:
            entries.append(("modules/%02d-%s" % (i, os.path.basename(path)), stat.S_IFREG | 0o644, f.read()))
    return cpio(entries)


def get():
    """(kernel, modules folder); downloaded once, one process at a time. A kernel in the cache is good enough."""
    if not shutil.which("qemu-system-x86_64"):
        raise Unavailable("qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)")
    if not os.path.exists(BUSYBOX):
        raise Unavailable("%s is not installed (apt-get install busybox-static)" % BUSYBOX)
    os.makedirs(CACHE, exist_ok=True)
    ours = hashlib.sha256(" ".join(WANTED).encode()).hexdigest()[:8]
    with open(os.path.join(CACHE, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folders = [f for f in sorted(os.listdir(CACHE)) if f.startswith("linux-image-") and f.endswith("_" + ours)]
        if not folders:
            folders = [download(ours)]
    release = folders[-1].split("_")[0][len("linux-image-"):]
    folder = os.path.join(CACHE, folders[-1])
    return os.path.join(folder, "boot", "vmlinuz-" + release), os.path.join(folder, "lib", "modules", release)
