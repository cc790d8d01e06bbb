"""What metering costs, measured: `python -m benchmarks.http` and `python -m benchmarks.engine`. See docs/performance.md."""
