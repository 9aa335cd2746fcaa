"""Draws the pictures of the pages, docs/pictures/*.svg. A test draws them again and compares.

python scripts/draw_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
INK, FAINT, LINE = "#1b2733", "#5b6b7a", "#9fb0c0"
BLUE, GREEN, RED, GREY, YELLOW = "#dbeafe", "#dcfce7", "#fee2e2", "#eef1f4", "#fef3c7"


class Picture:
    """Boxes, arrows and words on a light background, without fonts or colours from elsewhere."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{FAINT}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def words(
        self, x: float, y: float, text: str, *, colour: str = INK, size: int = 14, anchor: str = "middle"
    ) -> None:
        """Lines of text, the first at `y`."""
        for number, line in enumerate(text.split("\n")):
            self._parts.append(
                f'<text x="{x:g}" y="{y + number * (size + 4):g}" text-anchor="{anchor}" font-size="{size}" '
                f'fill="{colour}">{escape(line)}</text>'
            )

    def box(
        self, x: float, y: float, width: float, height: float, text: str, fill: str, *, dashed: bool = False
    ) -> None:
        """A box with words in its middle."""
        dashes = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" '
            f'stroke="{LINE}"{dashes}/>'
        )
        lines = text.count("\n") + 1
        self.words(x + width / 2, y + height / 2 + 5 - (lines - 1) * 9, text)

    def frame(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """A dashed border, with its name above its content."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10" fill="none" stroke="{LINE}" '
            'stroke-dasharray="6 4"/>'
        )
        self.words(x + 12, y + 20, text, colour=FAINT, anchor="start")

    def arrow(self, path: str, *, tip: bool = True) -> None:
        """A line along a path, with an arrowhead at its end."""
        end = ' marker-end="url(#tip)"' if tip else ""
        self._parts.append(f'<path d="{path}" fill="none" stroke="{FAINT}" stroke-width="1.5"{end}/>')

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])


def life() -> Picture:
    """What happens to a connection, step by step."""
    picture = Picture(980, 330, "The life of a connection: opened once, checked each time, replaced when dead")
    for y, name in ((78, "Lambda"), (158, "your function"), (238, "connection")):
        picture.words(14, y, name, colour=FAINT, anchor="start")
    turns = [
        (120, 90, "Init", BLUE, "imports;\nPool()", ""),
        (210, 130, "invoke", BLUE, "handler,\nCOMMIT", "open"),
        (340, 120, "freeze", GREY, "stands still", "idle"),
        (460, 110, "thaw", BLUE, "free check:\nit is dead", "replaced"),
        (570, 100, "invoke", BLUE, "handler,\nCOMMIT", "open"),
        (670, 100, "freeze", GREY, "stands still", "idle"),
        (770, 110, "invoke", BLUE, "free check: ok\nhandler", "reused"),
        (880, 86, "shutdown", YELLOW, "SIGTERM", "closed"),
    ]
    for x, width, name, fill, does, connection in turns:
        picture.box(x + 3, 50, width - 6, 46, name, fill)
        picture.box(x + 3, 130, width - 6, 46, does, "#ffffff" if fill == GREY else BLUE)
        if connection:
            colour = {"open": GREEN, "idle": GREY, "replaced": YELLOW, "reused": GREEN, "closed": GREY}[connection]
            picture.box(x + 3, 210, width - 6, 46, connection, colour)
    picture.words(490, 26, "one execution environment, over time →", colour=FAINT)
    picture.arrow("M400 300V260")
    picture.words(400, 318, "the database ends the connection; nobody can notice", colour=FAINT)
    picture.arrow("M825 300V260")
    picture.words(825, 318, "no round trip", colour=FAINT)
    return picture


def network() -> Picture:
    """What the template creates, and which part talks to which."""
    picture = Picture(980, 390, "The template's network: the function and the database in your VPC, its logs outside")
    picture.frame(210, 20, 580, 270, "your VPC, your subnets")
    picture.frame(230, 60, 210, 200, "function's security group")
    picture.frame(560, 60, 210, 200, "database's security group")
    picture.box(20, 120, 140, 60, "caller\n(API, queue, …)", GREY)
    picture.box(255, 115, 160, 70, "Lambda function\nwith the layer", BLUE)
    picture.box(585, 115, 160, 54, "RDS Proxy", YELLOW)
    picture.box(585, 200, 160, 48, "Aurora cluster", GREEN)
    picture.arrow("M160 150H251")
    picture.arrow("M415 142H581")
    picture.words(500, 132, "TLS, IAM token", colour=FAINT, size=12)
    picture.arrow("M665 169V196")
    picture.box(255, 320, 160, 54, "CloudWatch Logs", GREY)
    picture.box(585, 320, 160, 54, "dashboard, alarms", GREY)
    picture.arrow("M335 185V316")
    picture.arrow("M415 347H581")
    picture.words(347, 308, "metrics as log lines", colour=FAINT, size=12, anchor="start")
    picture.box(815, 95, 150, 48, "Secrets Manager", GREY, dashed=True)
    picture.box(815, 160, 150, 48, "RDS API", GREY, dashed=True)
    picture.words(
        890, 236, "only with Login=secret\nor DiscoverByName, by\na NAT gateway or an\nendpoint", colour=FAINT, size=12
    )
    return picture


def proxy() -> Picture:
    """Whether a function needs RDS Proxy."""
    picture = Picture(980, 400, "Do I need a proxy? Compare what runs at once with the connections that are left")
    picture.box(330, 14, 320, 64, "run at once at the peak\ntimes workers times max_size", BLUE)
    picture.arrow("M490 78V108")
    picture.box(330, 112, 320, 64, "fewer than 80 % of what\nthe database has left?", YELLOW)
    picture.arrow("M330 144H214V206")
    picture.words(270, 136, "yes", colour=FAINT)
    picture.arrow("M650 144H766V206")
    picture.words(710, 136, "no", colour=FAINT)
    picture.box(74, 210, 280, 64, "and after the traffic\nhas doubled?", YELLOW)
    picture.box(626, 210, 280, 64, "may Lambda throttle\nwhat is more?", YELLOW)
    picture.arrow("M140 274V322")
    picture.words(128, 300, "yes", colour=FAINT, anchor="end")
    picture.arrow("M290 274V322")
    picture.words(302, 300, "no", colour=FAINT, anchor="start")
    picture.arrow("M692 274V322")
    picture.words(680, 300, "yes", colour=FAINT, anchor="end")
    picture.arrow("M842 274V322")
    picture.words(854, 300, "no", colour=FAINT, anchor="start")
    picture.box(30, 326, 200, 60, "no proxy needed", GREEN)
    picture.box(246, 326, 210, 60, "not yet: plan for one", GREEN)
    picture.box(546, 326, 220, 60, "reserve a concurrency:\nno proxy needed", GREEN)
    picture.box(782, 326, 180, 60, "RDS Proxy, or\na larger database", RED)
    return picture


def trace() -> Picture:
    """What a trace shows for a cold invocation, a warm one, and a request that had to wait."""
    picture = Picture(980, 420, "Traces of three invocations: cold, warm, and one that waited for a connection")
    picture.words(14, 26, "time →", colour=FAINT, anchor="start")
    for x, fill, who in (
        (330, BLUE, "yours"),
        (470, YELLOW, "OtelTraces"),
        (640, GREEN, "the driver's instrumentor"),
    ):
        picture.box(x, 12, 22, 18, "", fill)
        picture.words(x + 30, 26, who, colour=FAINT, anchor="start")
    traces = [
        (48, "cold", 640, [(20, 250, "connect", YELLOW), (280, 110, "select", GREEN), (400, 150, "update", GREEN)]),
        (176, "warm", 390, [(20, 110, "select", GREEN), (140, 150, "update", GREEN)]),
        (304, "busy", 560, [(20, 170, "pool wait", YELLOW), (200, 110, "select", GREEN), (320, 150, "update", GREEN)]),
    ]
    for y, name, width, spans in traces:
        picture.words(14, y + 25, name, colour=FAINT, anchor="start")
        picture.box(80, y, width, 38, "invocation orders", BLUE)
        for x, long, what, fill in spans:
            picture.box(80 + x, y + 54, long, 38, what, fill)
        picture.arrow(f"M{80 + width - 40} {y + 73}V{y + 42}")
        picture.words(80 + width - 40, y + 90, "COMMIT", colour=FAINT, size=12)
    for x, y, text in (
        (740, 62, "connect: one attempt to connect"),
        (490, 190, "the connection is reused: its checkout has no span"),
        (660, 318, "pool wait: all connections were lent"),
    ):
        picture.words(x, y + 10, text, colour=FAINT, anchor="start", size=12)
    return picture


PICTURES = {"life.svg": life, "network.svg": network, "proxy.svg": proxy, "trace.svg": trace}


def main() -> None:
    """Write them all."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(str(draw()))


if __name__ == "__main__":
    main()
