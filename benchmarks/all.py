"""Every benchmark, one after the other, each with servers of its own; Markdown on stdout, ready for docs/performance.md.

uv run python -m benchmarks.all [--quick]

About 45 minutes. Exits 1 when the books of any of them were wrong.
"""

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
    "memory": "Memory",
}


def main() -> None:
    options = stage.options(__doc__)
    wrong = []
    for name, title in BENCHMARKS.items():
        print(f"## {title}\n", flush=True)
        more = ["--quick"] if options.quick else ["--profile", "10"] if name == "http" else []
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *more], cwd=stage.ROOT, check=False).returncode:
            wrong.append(name)
        print(flush=True)
    print(f"Wrong or broken off: {', '.join(wrong)}." if wrong else "All books are right.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
