"""Run as a script: becomes another user, ties itself to its parent's life, and turns into the given program.

A process of its own does this because code between fork and exec is unsafe in a program with threads, and because
changing the user would untie the process again. It imports nothing of ours.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program; its pid is then in the file behind `pid_fd`."""
    pid_fd, uid, gid, death_signal, parent = map(int, sys.argv[1:6])
    program = sys.argv[6:]
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.ftruncate(pid_fd, 0)
    os.pwrite(pid_fd, str(os.getpid()).encode(), 0)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            sys.exit("the process that started this has ended")
    try:
        os.execv(program[0], program)  # noqa: S606 -- a shell is the last thing wanted here
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error}")


if __name__ == "__main__":
    main()
