"""The grammar of spaces: what it draws lies where it should, and what is no space is said to be none."""

import math
import re
from decimal import Decimal

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.recipe import get_recipe, override
from train.search.space import Choice, Items, Repeat, Span, of_floats, parse_space, read_settings

optuna.logging.set_verbosity(optuna.logging.WARNING)

few = settings(max_examples=50, deadline=None, database=None, derandomize=True)


def one(text):
    return parse_space([f"x={text}"])[0].draws["x"]


def drawn(text, seed=0):
    """What the setting `x` is drawn to be, and the draws behind it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    trial = study.ask()
    return parse_space([f"x={text}"])[0].draw(trial)["x"], trial.params


@few
@given(low=st.integers(-1000, 1000), count=st.integers(1, 50), step=st.integers(1, 20), seed=st.integers(0, 99))
def test_whole_numbers_lie_on_their_steps(low, count, step, seed):
    value, _ = drawn(f"{low}..{low + count * step}:{step}", seed)
    assert isinstance(value, int)
    assert low <= value <= low + count * step
    assert (value - low) % step == 0


@few
@given(low=st.integers(0, 30), count=st.integers(1, 9), seed=st.integers(0, 99))
def test_steps_of_a_tenth_are_the_numbers_that_one_writes(low, count, seed):
    first, last = Decimal(low) / 10, Decimal(low + count) / 10
    value, _ = drawn(f"{first:.1f}..{last:.1f}:0.1", seed)
    assert value in [float(first + index * Decimal("0.1")) for index in range(count + 1)]


@few
@given(exponents=st.tuples(st.integers(-8, 3), st.integers(1, 5)), seed=st.integers(0, 99))
def test_a_logarithmic_range_lies_between_its_ends(exponents, seed):
    low = exponents[0]
    high = low + exponents[1]
    value, _ = drawn(f"log:1e{low}..1e{high}", seed)
    assert isinstance(value, float)
    assert 10.0**low * (1 - 1e-12) <= value <= 10.0**high * (1 + 1e-12)


def test_a_logarithmic_range_has_half_its_draws_below_its_geometric_mean():
    values = [drawn("log:1e-4..1e-2", seed)[0] for seed in range(200)]
    assert 0.4 < sum(value < 1e-3 for value in values) / 200 < 0.6


@few
@given(least=st.integers(1, 4), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_repeated_range_is_a_list_of_so_many_draws(least, more, seed):
    value, draws = drawn(f"[32..512:32]*{least}..{least + more}", seed)
    assert least <= len(value) <= least + more
    assert all(32 <= item <= 512 and item % 32 == 0 for item in value)
    assert sum("[" in name for name in draws) == len(value), "what lies beyond the length is not drawn"


@few
@given(values=st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True), seed=st.integers(0, 20))
def test_a_choice_is_one_of_its_values(values, seed):
    assert drawn(",".join(map(str, values)), seed)[0] in values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("adam, adamw,sgd", ["adam", "adamw", "sgd"]),
        ("[64],[128, 64]", [[64], [128, 64]]),
        ("'a,b','c'", ["a,b", "c"]),
        ("True,False,None", [True, False, None]),
        ("{'a': 1, 'b': 2},{}", [{"a": 1, "b": 2}, {}]),
    ],
)
def test_commas_inside_brackets_and_quotation_marks_part_nothing(text, values):
    assert list(one(text).ends()) == values


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1..4", Span(1, 4)),
        ("0..0.5", Span(0.0, 0.5)),
        ("-1..+2:0.5", Span(-1.0, 2.0, 0.5)),
        ("log:1..100", Span(1, 100, None, True)),
        (".5..1.", Span(0.5, 1.0)),
        ("[16..64:16, 7]", Items((Span(16, 64, 16), 7))),
        ("[1,2]*3", Repeat(Choice(("1", "2")), 3, 3)),
        ("[64]*1..3", Repeat(Choice(("64",)), 1, 3)),
    ],
)
def test_what_is_written_is_what_is_meant(text, kind):
    assert one(text) == kind
    assert [type(a) for a in kind[:2]] == [type(a) for a in one(text)[:2]], "whole numbers stay whole"


@pytest.mark.parametrize(
    "text", ["10", "adam", "[128, 64]", "None", "1e-3", "folder:../photos", "csv:a..b/c", '"1..2"']
)
def test_one_value_is_no_space(text):
    space, fixed = parse_space([f"x={text}"])
    assert (space.draws, fixed) == ({}, [f"x={text}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4..1", "the lower end comes first"),
        ("1..1", "the lower end comes first"),
        ("log:0..1", "begins above 0"),
        ("log:1..9:2", "has no steps"),
        ("1..9:0", "greater than 0"),
        ("32..500:32", "reach 480 and 512, not 500"),
        ("log:5", "a range is LOW..HIGH"),
        ("1..x", "a range is LOW..HIGH"),
        ("1..2,3..4", "not between ranges"),
        ("16,16", "each value once"),
        ("[1..4]*0..2", "at least one item"),
        ("[1..4]*3..2", "at least one item"),
        ("[]*2", "what is repeated"),
        ("[[1..2]*2]*2", "what is repeated"),
        ("1e400..2e400", "finite"),
    ],
)
def test_what_is_no_range_is_said_to_be_none(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_space([f"width={text}"])
    assert str(caught.value).startswith(f"width={text}: ")


def test_a_setting_needs_a_name_and_a_value():
    with pytest.raises(ValueError, match="the form NAME=VALUE"):
        parse_space(["1..2"])


def test_of_two_settings_the_later_counts():
    space, fixed = parse_space(["a=1..2", "b=1,2", "a=5"])
    assert (list(space.draws), fixed) == (["b"], ["a=5"])


def test_a_range_of_floats_is_no_choice_of_whole_numbers():
    assert of_floats(Span(0, 1)) == Span(0.0, 1.0)
    assert isinstance(of_floats(Span(0, 1)).low, float)
    value = of_floats(Span(0, 1)).draw("x", optuna.create_study().ask())
    assert isinstance(value, float)


def test_a_file_holds_a_setting_a_line(tmp_path):
    file = tmp_path / "space.txt"
    file.write_text("# of the optimizer\nlearning_rate=log:1e-4..1e-2\n\nbatch_size=16,32  # powers of 2\n")
    assert read_settings(file) == ["learning_rate=log:1e-4..1e-2", "batch_size=16,32"]
    file.write_text("batch_size=16\nnonsense\n")
    with pytest.raises(ValueError, match="line 2 of"):
        read_settings(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_settings(tmp_path / "nowhere")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text"):
        read_settings(file)


def test_what_is_drawn_is_what_the_recipe_takes():
    import train.recipes  # noqa: F401

    value, _ = drawn("[32..512:32]*1..4")
    rate, _ = drawn("log:1e-4..1e-2")
    recipe = override(get_recipe("mlp_digits"), [f"model_options.hidden_sizes={value!r}", f"learning_rate={rate!r}"])
    assert recipe.model_options["hidden_sizes"] == value
    assert math.isclose(recipe.learning_rate, rate, rel_tol=0)
