"""Every benchmark, one after the other, each with servers of its own; Markdown on stdout, ready for docs/performance.md.

uv run python -m benchmarks.all [--quick]

About 45 minutes on two cores. Exits 1 when the books of any of them were wrong.
"""

import signal
import subprocess
import sys

from benchmarks import stage

BENCHMARKS = {
    "http": "Over HTTP",
    "engine": "The engine alone",
    "exact": "The limit over HTTP",
    "kill": "Killed web workers",
    "long_tail": "The long tail",
    "hot_set": "Busy tenants among many",
    "flood": "A refused flood",
    "durable": "Durable calls",
    "boundaries": "Boundaries that are learned late",
    "memory": "Memory",
    "reporting": "Usage reports",
    "price_lab": "The price lab",
    "events": "Events",
    "stream": "The stream",
    "gateway": "The gateway",
    "pages": "Pages",
}


def main() -> None:
    options = stage.options(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wrong = []
    for name, title in BENCHMARKS.items():
        print(f"## {title}\n", flush=True)
        more = ["--quick"] if options.quick else ["--profile", "10"] if name == "http" else []
        if _exit_code(f"benchmarks.{name}", *more):
            wrong.append(name)
        print(flush=True)
    print(f"Wrong or broken off: {', '.join(wrong)}." if wrong else "All books are right.")
    sys.exit(1 if wrong else 0)


def _exit_code(*command: str) -> int:
    with subprocess.Popen([sys.executable, "-m", *command], cwd=stage.ROOT) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # and waited for: it stops its servers first
            raise


if __name__ == "__main__":
    main()
