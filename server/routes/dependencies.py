"""What the routes are given."""

from fastapi import Request

from flexquant.server.daemon_state import DaemonState


def daemon_state(request: Request) -> DaemonState:
    """The daemon's state."""
    state = request.app.state.daemon
    assert isinstance(state, DaemonState)
    return state
