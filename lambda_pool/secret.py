"""A value that must never be shown: passwords and tokens travel wrapped until the driver needs them."""

from typing import NoReturn


class Secret:
    """Holds one secret text. Prints as `***` everywhere; `reveal()` is the one way to the text; cannot be pickled."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The text itself. Pass it straight to the driver; never keep it in a variable that outlives the call."""
        return self.__text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.__text == self.__text

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")
