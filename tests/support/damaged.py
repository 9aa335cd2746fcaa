"""Answers of others that are nearly right, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

_MISSING = object()


def damaged(
    right: dict[str, st.SearchStrategy[Any]], wrong: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    """Dictionaries of these keys, of which at most two are wrong or missing: else hardly any would be understood."""
    damage = st.dictionaries(st.sampled_from(sorted(right)), st.one_of(wrong, st.just(_MISSING)), max_size=2)
    return st.builds(
        lambda made, damage: {key: value for key, value in (made | damage).items() if value is not _MISSING},
        st.fixed_dictionaries(right),
        damage,
    )
