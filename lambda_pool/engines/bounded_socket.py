"""What both engines do to a socket behind the driver's back."""

import os
import socket

# Seconds for which the kernel resends what is not acknowledged before it gives up a connection (TCP_USER_TIMEOUT in
# tcp(7)). Its own default is a quarter of an hour. A peer that vanishes within `ping_after` of its last use costs this
# much, and not the whole invocation. A long statement is not affected: its packet was acknowledged at once.
UNACKNOWLEDGED = 10.0


def dead_end(fd: int) -> None:
    """Make `fd` a socket that leads nowhere: this process's end is closed, and not a byte is sent.

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
