"""What metering costs and what it holds, measured: `python -m benchmarks.all`, or one of its modules. See docs/performance.md."""
