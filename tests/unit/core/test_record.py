"""Value objects: frozen, compared by value, and told apart from what they are not."""

import pytest

from lambda_pool.record import Record


class Point(Record):
    x: int
    y: int = 0


def test_by_position_by_name_and_by_default() -> None:
    assert Point(1, 2) == Point(x=1, y=2) == Point(1, y=2)
    assert Point(1).y == 0
    assert Point(1).replace(y=3) == Point(1, 3)
    assert repr(Point(1, 2)) == "Point(x=1, y=2)"
    assert len({Point(1), Point(1, 0), Point(2)}) == 2


def test_frozen() -> None:
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        Point(1).x = 2  # type: ignore[misc]


@pytest.mark.parametrize(("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((), {"y": 1})])
def test_wrong_fields(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point takes x, y; got"):
        Point(*values, **named)


def test_another_type_with_the_same_values_is_not_equal() -> None:
    class Other(Record):
        x: int
        y: int = 0

    assert Point(1) != Other(1)
