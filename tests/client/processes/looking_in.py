"""Starts a program and tries to look into it as another process of the same user, without any capability.

    python looking_in.py READY PROGRAM ARGUMENT...

READY is `cores-off` (its limit says so) or a text that it writes. Writes a JSON object: what an attach and a read of
its memory gave. Root loses its capabilities first, and so does the program: without them root is a user like another.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

_PR_CAPBSET_DROP, _PTRACE_ATTACH, _PTRACE_DETACH = 24, 16, 17  # linux/prctl.h, sys/ptrace.h
_LAST_CAPABILITY = 40
_PATIENCE = 100.0


def main() -> None:
    """Do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if os.geteuid() == 0 and sys.argv[1] != "--bare":
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.execv(sys.executable, [sys.executable, __file__, "--bare", *sys.argv[1:]])
    wanted, *command = sys.argv[1:] if sys.argv[1] != "--bare" else sys.argv[2:]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait(process, wanted)
            time.sleep(0.2)  # the second half of `protect_process` follows the first
            found = {"attach": outcome(libc.ptrace(_PTRACE_ATTACH, process.pid, None, None))}
            if found["attach"] == "done":
                os.waitpid(process.pid, os.WUNTRACED)
                libc.ptrace(_PTRACE_DETACH, process.pid, None, None)
            try:
                Path(f"/proc/{process.pid}/mem").open("rb").close()
                found["memory"] = "done"
            except OSError as error:
                found["memory"] = errno.errorcode[error.errno or 0]
            found["cores"] = limit(process.pid)
        finally:
            process.kill()
    sys.stdout.write(json.dumps(found))


def wait(process: subprocess.Popen[bytes], wanted: str) -> None:
    """Until the program is ready; ends with 1 if it ends before."""
    until = time.monotonic() + _PATIENCE
    while wanted == "cores-off" and time.monotonic() < until and process.poll() is None:
        if limit(process.pid) == "0":
            return
        time.sleep(0.02)
    assert process.stderr is not None
    while wanted != "cores-off" and (line := process.stderr.readline()):
        if wanted.encode() in line:
            return
    raise SystemExit(f"{wanted!r} did not come")


def limit(process: int) -> str:
    """Of the size of its core files."""
    text = Path(f"/proc/{process}/limits").read_text(encoding="ascii")
    found = re.search(r"Max core file size +(\S+) +(\S+) ", text)
    assert found is not None
    return found[1] if found[1] == found[2] else f"{found[1]} of {found[2]}"


def outcome(code: int) -> str:
    """Of a system call."""
    return "done" if code == 0 else errno.errorcode[ctypes.get_errno()]


if __name__ == "__main__":
    main()
