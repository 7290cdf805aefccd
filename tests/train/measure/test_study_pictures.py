"""The pictures of a study: they show what they should, whatever the study holds."""

import numpy as np
import pytest
from PIL import Image

from train.measure import study_pictures


def trial(number, state="complete", value=1.0, **draws):
    return {"trial": number, "state": state, "value": value, "draws": draws}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_best_so_far_falls_or_rises(tmp_path):
    """The orange line lies higher where more is better."""
    table = [
        trial(0, value=3.0),
        trial(1, value=1.0),
        trial(2, "failed", None),
        trial(3, "pruned", 4.0),
        trial(4, value=2.0),
    ]
    heights = {}
    for maximize in (False, True):
        path = tmp_path / "history.png"
        study_pictures.history([*table, trial(5, value=5.0)], path, label="loss", maximize=maximize)
        orange = (np.abs(pixels(path) - [0xD9, 0x77, 0x2B]) < 6).all(-1)
        heights[maximize] = np.argwhere(orange)[:, 0].mean()  # rows, counted from above
    assert heights[True] < heights[False] - 50


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [1e-6, 1e3], [-1.0, 2.0]])
def test_any_values_can_be_drawn(values, tmp_path):
    table = [trial(n, value=v, rate=10.0**-n, kind="$a" * (n + 1), size=n + 1) for n, v in enumerate(values)]
    table.append(trial(9, "running", None))
    study_pictures.history(table, tmp_path / "h.png", label="loss", maximize=False)
    order = {"kind": ["$a", "$a$a", "c"]}
    study_pictures.parallel(table, tmp_path / "p.png", label="loss", maximize=True, logarithmic={"rate"}, order=order)
    study_pictures.importance({"rate": 1.0, "kind": 0.0}, tmp_path / "i.png", label="loss")
    for name in ("h", "p", "i"):
        assert pixels(tmp_path / f"{name}.png").std() > 0


def test_heights_are_shares_of_the_range():
    places, ticks = study_pictures._places([1, 3, 5, None], False, None)
    assert places.tolist() == [0, 0.5, 1, study_pictures._ABSENT]
    assert ticks == [(0.0, "1"), (0.25, "2"), (0.5, "3"), (0.75, "4"), (1.0, "5")]
    places, ticks = study_pictures._places([1e-4, 1e-3, 1e-2], True, None)
    np.testing.assert_allclose(places, [0, 0.5, 1])
    assert [word for _, word in ticks] == ["0.0001", "0.00032", "0.001", "0.0032", "0.01"]
    places, ticks = study_pictures._places(["b", "a"], False, ["a", "b", "c"])
    assert (places.tolist(), ticks) == ([0.5, 0], [(0, "a"), (0.5, "b"), (1, "c")])
    assert study_pictures._ticks(1, 4, False) == [(0.0, "1"), (1 / 3, "2"), (2 / 3, "3"), (1.0, "4")]


def test_the_length_of_a_list_comes_before_its_items():
    names = ["w[10]", "w[2]", "w.length", "b", "w[0]"]
    assert sorted(names, key=study_pictures._natural) == ["b", "w.length", "w[0]", "w[2]", "w[10]"]
