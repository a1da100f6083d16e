"""Becomes another program that dies with the process that started it. Run as a script, never imported.

    python -I -S tether.py PARENT_PID PROGRAM [ARGUMENT ...]

Linux sends a tethered process SIGTERM when the *thread* that started it ends, even by SIGKILL. Done here, after the
fork and before the program, because a `preexec_fn` can deadlock in a parent that runs threads. Elsewhere
than on Linux this is a plain exec.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != int(parent):  # it died before the tether was tied
            sys.exit(0)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
