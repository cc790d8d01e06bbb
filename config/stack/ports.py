"""Loopback ports."""

import socket

from config.stack.errors import StackError, port_taken

HIGHEST = 65535


def free() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check(port: int, *, name: str, option: str) -> None:
    """The port can be listened on; StackError if not."""
    if not 0 < port <= HIGHEST:
        raise StackError(f"{port} is not a port: {option} takes a number from 1 to {HIGHEST}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise StackError(f"{name} may not listen on port {port}: choose one above 1023 with {option}.") from error
        except OSError as error:
            raise port_taken(name, port, option) from error
