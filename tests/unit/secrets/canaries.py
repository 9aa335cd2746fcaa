"""Secrets that can be told from everything else, and the forms in which they, or a telling part of them, may leave."""

import base64
import re
import secrets as randomness
from collections.abc import Iterable

_SHORTEST = 8
"""Characters of a part that tells: of random letters and digits, so that none stands anywhere by chance."""
_SIGNED = re.compile(rb"X-Amz-Signature(?:=|%3D|%253D)[0-9a-f]{8}", re.IGNORECASE)


def canary(name: str) -> str:
    """A password whose two halves tell by themselves, around characters that every kind of escaping changes."""
    return f"{name}{randomness.token_hex(6)}q:/?#[]@é %\"'\\&={randomness.token_hex(6)}{name}"


def parts(secret: str) -> list[str]:
    """The pieces of a secret that tell by themselves, whatever was done to the characters between them."""
    found: list[str] = []
    for piece in re.findall(r"[A-Za-z0-9]+", secret):
        half = len(piece) // 2
        # A long piece, such as a token's signature, tells by each of its halves.
        found += [piece[:half], piece[half:]] if half >= 2 * _SHORTEST else [piece]
    return [piece for piece in dict.fromkeys(found) if len(piece) >= _SHORTEST]


def forms(part: str) -> dict[bytes, str]:
    """The bytes to look for, each with the name of its form."""
    raw = part.encode()
    found = {
        raw: "as it is",
        raw.hex().encode(): "hex",
        raw.hex().upper().encode(): "hex",
        raw.hex(" ").encode(): "hex",
        str(list(raw))[1:-1].encode(): "list of numbers",
        "".join(f"%{byte:02X}" for byte in raw).encode(): "URL-escaped",
        "".join(f"\\x{byte:02x}" for byte in raw).encode(): "repr-escaped",
        "".join(f"\\u{byte:04x}" for byte in raw).encode(): "JSON-escaped",
        part.encode("utf-16-le"): "UTF-16",
        part[::-1].encode(): "reversed",
    }
    for shift in range(3):  # three bytes make four characters: what comes before moves the boundaries
        text = base64.b64encode(b"\0" * shift + raw)
        # Characters that also hold bits of what stands before or behind are cut off.
        whole = text[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
        found[whole] = found[whole.translate(bytes.maketrans(b"+/", b"-_"))] = "base64"
    return found


class Canaries:
    """The secrets of one run. `secrets`: name to text."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self._needles: list[tuple[bytes, str]] = []
        for name, secret in secrets.items():
            self.add(name, secret)

    def add(self, name: str, secret: str) -> None:
        """One more. Raises ValueError if there is nothing in it that tells."""
        pieces = parts(secret)
        if not pieces:
            raise ValueError(f"{name} holds no piece of {_SHORTEST} letters or digits to tell it by")
        self._needles += [(needle, f"{name}, {form}") for piece in pieces for needle, form in forms(piece).items()]

    def found_in(self, data: bytes) -> list[str]:
        """Which secrets are in there, and in which form; each with what stands around it."""
        found = [(data.find(needle), len(needle), what) for needle, what in self._needles if needle in data]
        found += [(match.start(), len(match[0]), "an IAM token's signature") for match in _SIGNED.finditer(data)]
        return [f"{what}: …{_around(data, at, length)}…" for at, length, what in found]


def _around(data: bytes, at: int, length: int) -> str:
    return data[max(0, at - 60) : at + length + 20].decode("utf-8", "replace").replace("\n", " ")


def search(canaries: Canaries, outlets: Iterable[tuple[str, bytes]]) -> list[str]:
    """One line for each secret in each outlet: an empty list is the only good answer."""
    return [f"{label}: {what}" for label, data in outlets for what in canaries.found_in(data)]
