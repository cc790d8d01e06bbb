"""What is due when: one timer per action and object, run in order of their time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World

Action = Callable[[Any, str], None]
ACTIONS: dict[str, tuple[int, Action]] = {}


@dataclass(frozen=True, slots=True)
class Due:
    action: str
    id: str
    at: int


def action(name: str, *, rank: int = 5) -> Callable[[Action], Action]:
    """Register what a timer does. At the same second the lower rank goes first."""

    def register(run: Action) -> Action:
        ACTIONS[name] = (rank, run)
        return run

    return register


def schedule(world: "World", name: str, identifier: str, at: int) -> None:
    """The action is due then; an earlier appointment of the same action and object is replaced."""
    world.store.db.execute(
        "INSERT INTO timers (action, id, at, rank) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (action, id) DO UPDATE SET at = excluded.at",
        (name, identifier, at, ACTIONS[name][0]),
    )


def cancel(world: "World", name: str, identifier: str) -> None:
    world.store.db.execute("DELETE FROM timers WHERE action = ? AND id = ?", (name, identifier))


def earliest(world: "World", *, until: float, name: str | None = None) -> Due | None:
    """The next that is due by then."""
    clause, values = ("", (until,)) if name is None else (" AND action = ?", (until, name))
    row = world.store.db.execute(
        f"SELECT action, id, at FROM timers WHERE at <= ?{clause} ORDER BY at, rank, rowid LIMIT 1", values
    ).fetchone()
    return Due(*row) if row else None


def run(world: "World", due: Due) -> None:
    """Its effect and its events, in one transaction, at the second it was due; the clock stands there at least."""
    if due.at > world.clock.now():
        world.clock.move_to(due.at)
    world.clock.pin(due.at)
    try:
        with world.transaction():
            world.clock.keep()
            cancel(world, due.action, due.id)
            ACTIONS[due.action][1](world, due.id)
    finally:
        world.clock.unpin()


def run_due(world: "World", *, until: float) -> int:
    """Everything due by then has happened, in order; how many."""
    done = 0
    while True:
        with world.lock:
            due = earliest(world, until=until)
            if due is None:
                return done
            run(world, due)
        done += 1


def advance(world: "World", moment: float) -> int:
    """It is this moment, and all that was due on the way has happened. Raises TimeGoesForward."""
    with world.lock:
        if moment < world.clock.now():
            world.clock.move_to(moment)
    done = run_due(world, until=moment)
    with world.lock, world.transaction():
        if moment > world.clock.now():
            world.clock.move_to(moment)
        world.clock.keep()
    world.wake()
    return done
