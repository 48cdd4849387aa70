"""Numbers as people and tools write them, on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.errors import CostError, GraphError, InputError
from offramp.command import parsing, photographs

WRITTEN = ["{!r}", "{:e}", "{:E}", "{:.3g}", "{:f}", " {:g} "]  # as profilers print numbers
amounts = st.floats(1e-9, 1e12)


@given(amounts, amounts, st.sampled_from(WRITTEN), st.booleans())
def test_costs_are_read_as_they_are_printed(
    body: float, head: float, how: str, exit_: bool
) -> None:
    bodies, heads = how.format(body), how.format(head)
    text = f"a={bodies}+{heads},b=1e+09" if exit_ else f"a={bodies},b=1e+09"
    found = parsing.costs(text, "FLOP")
    assert found.body == {"a": float(bodies), "b": 1e9}
    assert found.head == {"a": float(heads) if exit_ else 0, "b": 0}
    assert [stage.after for stage in parsing.stages(text)] == [None, "a" if exit_ else None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=41M", "'41M', which is no number"),
        ("a=1,000,b=2", "not inside numbers"),
        ("a=4,1e+07", "not inside numbers"),
        ("a=1_000", "no number"),
        ("a=1 000", "no number"),
        ("a=0x10", "no number"),
        ("a=1e+", "no number"),
        ("a=1+", "no number"),
        ("a=1+2+3", "BODY"),
        ("a=nan", "finite"),
        ("a=inf", "finite"),
        ("a=1e400", "finite"),
        ("a=1e308,b=1e308", "larger --cost-unit"),
        ("a=-1", "at least 0"),
        ("a=1+-2", "at least 0"),
        ("a=1,", "not of the form"),
    ],
)
def test_what_is_no_cost_is_refused(text: str, says: str) -> None:
    with pytest.raises(CostError, match=says):
        parsing.costs(text, "FLOP")


@pytest.mark.parametrize("size", ["32", "32x32", "32X32", " 32 x 32 ", "32,32"])
def test_sizes_are_one_number_or_two(size: str) -> None:
    found = photographs.preprocessing(size, "0.5, 5e-1, .5", None, "nchw")
    assert found is not None
    assert found.size == (32, 32)
    assert found.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("size", "mean", "says"),
    [
        ("", None, "--size is ''"),
        ("32x", None, "240x320"),
        ("3x4x5", None, "240x320"),
        ("-3", None, "240x320"),
        ("3.5", None, "240x320"),
        ("1e400", None, "240x320"),
        (None, "", "--size as well"),
        ("32", "", "--mean is ''"),
        ("32", "0.5,", "--mean is '0.5,'"),
        ("32", "0.5 0.5 0.5", "commas"),
        ("32", "nan", "finite"),
        ("32", "0.5,0.5", "three of each"),
    ],
)
def test_what_is_no_preprocessing_is_refused(size: str | None, mean: str | None, says: str) -> None:
    with pytest.raises(GraphError, match=says):
        photographs.preprocessing(size, mean, None, "nchw")


@pytest.mark.parametrize("text", ["", "1,", "1,,2", "0", "-1", "1.5", "nan", "1e400", "one"])
def test_what_is_no_batch_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--batch"):
        parsing.batches(text)
    assert parsing.batches(" 1 , 64") == [1, 64]
