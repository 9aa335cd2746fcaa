"""What both engines do to a socket below the driver's back."""

import os
import socket

# Seconds that the kernel sends again what nobody acknowledges before it gives a connection up (TCP_USER_TIMEOUT in
# tcp(7)), where its own default is a quarter of an hour: a peer that vanishes within `ping_after` of its last use costs
# this much, and not the invocation. A statement that takes long is no matter: its packet was acknowledged at once.
UNACKNOWLEDGED = 10.0


def dead_end(fd: int) -> None:
    """Make `fd` a socket that leads nowhere: this process's end is closed, and not a byte was sent.

    dup2 swaps the descriptor in one step, so the driver, which goes on to close the number it knows, can never close
    a stranger's. In a forked child the parent's connection stays untouched.
    """
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        os.dup2(ours.fileno(), fd, inheritable=False)


def shut_down(fd: int) -> None:
    """End the connection for both sides at once, whoever is reading from it, without closing the descriptor."""
    with socket.socket(fileno=os.dup(fd)) as twin:
        twin.shutdown(socket.SHUT_RDWR)
