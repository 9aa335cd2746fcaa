"""A recorded dialogue, damaged at places that hypothesis chooses."""

from hypothesis import strategies as st

_LENGTHS = (0, 1, 3, 4, 2**15, 2**24 - 1, 2**24, 2**31 - 1, 2**32 - 1)


@st.composite
def mutated(draw: st.DrawFn, answers: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """These answers with one to three damages."""
    found = list(answers)
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(found) - 1))
        found[number] = draw(_damaged(found[number], answers))
    return tuple(found)


@st.composite
def _damaged(draw: st.DrawFn, data: bytes, others: tuple[bytes, ...]) -> bytes:
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 8)))
    kind = draw(st.integers(0, 7))
    if kind == 0:  # bits
        return data[:start] + bytes(byte ^ draw(st.integers(1, 255)) for byte in data[start:end]) + data[end:]
    if kind == 1:  # cut
        return data[:start]
    if kind == 2:  # left out
        return data[:start] + data[end:]
    if kind == 3:  # put in
        return data[:start] + draw(st.binary(min_size=1, max_size=12)) + data[start:]
    if kind == 4:  # a length, in either order
        number = draw(st.sampled_from(_LENGTHS)).to_bytes(4, draw(st.sampled_from(("big", "little"))))
        width = draw(st.sampled_from((3, 4)))
        return data[:start] + (number[:width] if number[0] else number[-width:]) + data[start + width :]
    if kind == 5:  # sent twice, or in the place of another one
        return data + draw(st.sampled_from(others))
    if kind == 6:
        return draw(st.sampled_from(others))
    return draw(st.binary(max_size=40))
