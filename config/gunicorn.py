"""gunicorn's configuration: `gunicorn -c config/gunicorn.py config.wsgi`. Addresses and counts come from the environment."""

import os
import signal
from typing import Any

bind = os.environ.get("WEB_BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_WORKERS", "2"))
worker_class = os.environ.get("WEB_WORKER_CLASS", "gthread")
threads = int(
    os.environ.get("WEB_THREADS", "1" if worker_class == "sync" else "8")
)  # more than one makes sync a gthread
preload_app = True
keepalive = 30
timeout = 60
graceful_timeout = 20
control_socket_disable = True
forwarded_allow_ips = os.environ.get("WEB_TRUSTED_PROXIES", "127.0.0.1")
accesslog = os.environ.get("WEB_ACCESS_LOG") or None


def post_worker_init(worker: Any) -> None:
    """On SIGTERM the flusher is woken at once: a hung request must not keep counted calls in memory."""
    from metering import engine  # noqa: PLC0415 -- this file is read before Django is set up

    graceful = signal.getsignal(signal.SIGTERM)

    def flush_and_stop(number: int, frame: Any) -> None:
        engine.wake()
        if callable(graceful):
            graceful(number, frame)

    signal.signal(signal.SIGTERM, flush_and_stop)


def worker_exit(server: Any, worker: Any) -> None:
    """The worker leaves nothing behind: calls flushed, leases returned."""
    from metering import engine  # noqa: PLC0415

    engine.stop()
