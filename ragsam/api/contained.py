"""A process that shuts itself in: no network, no other programs, and nothing written outside of one folder.

The network is taken away by the kernel where it permits that. All else, and the network where it does not, is refused
by an audit hook: it sees what Python's own functions are asked to do, not what a compiled library does by itself. It
holds parts that are known and given bad arguments; it would not hold code that means to break out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # <linux/sched.h>
_PARENT_DEATH_SIGNAL = 1  # <linux/prctl.h>
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
_NETWORK = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
_NETWORK |= {"socket.gethostbyname", "socket.gethostbyaddr"}
#: What changes files: of each event the places of its paths, each with that of the folder that it is relative to.
_CHANGES: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("os.remove", "os.rmdir"), ((0, 1),)),
    **dict.fromkeys(("os.mkdir", "os.chmod"), ((0, 2),)),
    **dict.fromkeys(("os.chown", "os.utime"), ((0, 3),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, -1),),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def leave_network() -> bool:
    """Go, while there is one thread yet, if there is no network, and end with the parent; False where that fails."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_NET) == 0:  # root may
        return True
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")
    return True


def shut_in(folder: str | os.PathLike[str]) -> None:
    """Refuse sockets, programs, and writing outside of a folder from now on, and more memory than the machine has."""
    own = os.path.realpath(folder)
    if sys.platform == "linux":
        import resource

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if reason := _reason(event, arguments, own):
            raise PermissionError(f"{reason}, which a bundle may not while it is verified")

    sys.addaudithook(refuse)


def _reason(event: str, arguments: tuple[Any, ...], own: str) -> str | None:
    """Return what is refused about an event, or None."""
    if event in _PROGRAMS:
        return "it starts a program"
    if event in _NETWORK or (event == "socket.__new__" and arguments[1] not in (-1, socket.AF_UNIX)):
        return "it uses the network"
    opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    database = event == "sqlite3.connect" and arguments[0] != ":memory:"
    written: list[tuple[Any, int]] = [(arguments[0], -1)] if opened or database else []
    for path, folder in _CHANGES.get(event, ()):
        written.append((arguments[path], -1 if folder < 0 else arguments[folder]))
    for path, folder in written:
        if not _inside(path, folder, own):
            return f"it writes {os.fsdecode(path)}"
    return None


def _inside(path: Any, folder: int, own: str) -> bool:
    """Whether a path, relative to an open folder where that is not negative, is in one's own; open files do."""
    if isinstance(path, int):
        return True
    place = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0:
        place = os.path.join(f"/proc/self/fd/{folder}", place)
    place = os.path.realpath(place)
    return place == os.devnull or place == own or place.startswith(own + os.sep)
