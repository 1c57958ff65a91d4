"""Names of token blocks."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from scheduler.prefix.token_blocks import chain, root


@given(st.lists(st.integers(0, 200_000), max_size=40), st.integers(1, 7), st.integers(0, 40))
def test_equal_prefixes_have_equal_names(tokens: list[int], size: int, cut: int) -> None:
    names = list(chain(root(size, ""), tokens, size))
    assert len(names) == len(tokens) // size, "full blocks only"
    shorter = list(chain(root(size, ""), tokens[:cut], size))
    assert names[: len(shorter)] == shorter
    if names:
        assert list(chain(names[0], tokens[size:], size)) == names[1:]


def test_a_name_depends_on_all_tokens_before_on_the_size_and_on_the_salt() -> None:
    tokens = list(range(8))
    first = [
        list(chain(root(4, ""), tokens, 4)),
        list(chain(root(4, "salt"), tokens, 4)),
        list(chain(root(4, ""), [99, *tokens[1:]], 4)),
    ]
    assert len({names[1] for names in first}) == 3
    assert root(4, "") != root(8, "")
    assert next(islice(chain(root(2, ""), tokens, 2), 1, None)) != first[0][0]
