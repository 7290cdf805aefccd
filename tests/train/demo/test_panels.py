"""What the panels answer is what the commands say of the same run."""

from __future__ import annotations

import base64

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import data
import zoo
from train.demo import of_folder, panel
from train.demo import panels as panels_module
from train.demo.panels import DRAWING
from train.inference import image_sampling, load, predict, text_generation
from train.inference.translation import translate

DRAW, WALK, WRITE, TRANSLATE = range(4)


def unbase(text, *shape):
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)


@pytest.mark.slow
def test_a_drawing_is_prepared_and_classified_as_zoo_predict_does(panels, runs, tmp_path):
    found = {}
    test = data.load("digits").splits["test"][np.arange(40)]
    for number in range(40):
        picture = Image.fromarray(np.uint8(255 * test["image"][number, ..., 0])).resize(
            (100, 100), Image.Resampling.BICUBIC
        )
        page = Image.new("L", (DRAWING, DRAWING))
        page.paste(picture, (30, 10))
        page.save(tmp_path / f"{number:02}.png")
        found[number] = panels[DRAW].answer({"picture": base64.b64encode(page.tobytes()).decode()})
    wanted = predict(runs / "draw", [tmp_path])
    for number, prediction in enumerate(wanted):
        probabilities = list(prediction.probabilities.values())
        np.testing.assert_allclose(found[number]["probabilities"], probabilities, atol=2e-6)
    classes = [int(np.argmax(answer["probabilities"])) for answer in found.values()]
    assert np.mean(classes == test["label"]) >= 0.8
    reader = load(runs / "draw").dataset.reader
    seen = reader.read(tmp_path / "03.png")
    np.testing.assert_array_equal(unbase(found[3]["seen"], 8, 8, 1), np.round(255 * seen))


@pytest.mark.slow
def test_an_empty_drawing_is_told(panels):
    with pytest.raises(ValueError, match="nothing is drawn"):
        panels[DRAW].answer({"picture": base64.b64encode(bytes(DRAWING**2)).decode()})


@pytest.mark.slow
def test_a_point_of_the_plane_is_decoded(panels, runs):
    """The axes that the answers imply are orthonormal, and lie where pictures change most."""
    run = load(runs / "walk")
    decoder = image_sampling.generator(run)
    axes = image_sampling.liveliest_plane(decoder)
    points = [[0, 0], [1.5, 0], [0, -1], [0.3, 2]]
    answer = panels[WALK].answer({"points": points, "seed": 0})
    wanted = image_sampling.decode(decoder, jnp.asarray(points @ axes, jnp.float32))
    found = unbase(answer["pictures"], 4, 8, 8, 1)
    np.testing.assert_allclose(found, 255 * wanted, atol=0.51)
    for point, picture in zip(points, found, strict=True):
        alone = unbase(panels[WALK].answer({"points": [point], "seed": 0})["pictures"], 8, 8, 1)
        np.testing.assert_allclose(alone.astype(int), picture, atol=1)


@pytest.mark.slow
def test_another_plane_is_parallel(panels, runs, monkeypatch):
    seen = []
    decode = image_sampling.decode
    monkeypatch.setattr(image_sampling, "decode", lambda source, z: seen.append(np.asarray(z)) or decode(source, z))
    panels[WALK].answer({"points": [[0, 0], [1, -2]], "seed": 5})
    panels[WALK].answer({"points": [[0, 0]], "seed": 5})
    panels[WALK].answer({"points": [[0, 0]], "seed": 6})
    axes = image_sampling.liveliest_plane(image_sampling.generator(load(runs / "walk")))
    middle, point = seen[0][:2]
    np.testing.assert_allclose(point - middle, [1, -2] @ axes, atol=1e-5)
    np.testing.assert_allclose(axes @ middle, 0, atol=1e-5)
    assert np.linalg.norm(middle) > 0.05
    np.testing.assert_array_equal(seen[1][0], middle)
    assert np.abs(seen[2][0] - middle).max() > 0.01


@pytest.mark.slow
def test_the_liveliest_plane_is_the_active_subspace():
    """Of a linear decoder it is spanned by the first two right singular vectors, whatever the latents."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(12, 5)))
    right, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    matrix = 0.01 * left @ np.diag([1.0, 5.0, 2.0, 3.0, 0.5]) @ right.T
    source = image_sampling.Generator((5,), lambda z, _: (0.5 + z @ matrix.T.astype(np.float32)).reshape(-1, 3, 4, 1))
    axes = image_sampling.liveliest_plane(source, n=8)
    np.testing.assert_allclose(np.abs(axes @ right[:, [1, 3]]), np.eye(2), atol=1e-3)
    for size, wanted in ((1, [[1], [0]]), (2, np.eye(2))):
        np.testing.assert_array_equal(image_sampling.liveliest_plane(source._replace(latent_shape=(size,))), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["", "it was", "w" * 70])
def test_a_text_is_what_zoo_generate_writes(panels, runs, prompt):
    body = {"prompt": prompt, "temperature": 0.6, "length": 150, "seed": 4}
    pieces = [line["text"] for line in panels[WRITE].answer(body)]
    assert len(pieces) > 2
    wanted = text_generation.write(text_generation.load(runs / "write"), prompt, 150, temperature=0.6, seed=4)
    assert "".join(pieces) == "".join(piece for (piece,) in wanted)


@pytest.mark.slow
def test_a_translation_is_that_of_zoo_translate(panels, runs):
    (wanted,) = translate(runs / "translate", ["3 March 1998"])
    assert panels[TRANSLATE].answer({"text": "3 March 1998"}) == {
        "text": wanted.text,
        "probability": wanted.probability,
    }
    examples = panels[TRANSLATE].facts["examples"]
    assert len(set(examples)) == 4
    assert all(panels[TRANSLATE].answer({"text": text})["probability"] > 0 for text in examples)


PICTURE = base64.b64encode(bytes(DRAWING**2)).decode()
POINT = {"points": [[0, 0]], "seed": 0}
PROMPT = {"prompt": "a", "temperature": 1, "length": 5, "seed": 0}


@pytest.mark.parametrize(
    ("index", "body", "message"),
    [
        (DRAW, {}, "the body lacks picture"),
        (DRAW, {"picture": PICTURE, "x" * 99: 1}, "unknown field 'x{40}'; expected picture"),
        (DRAW, {"picture": 3}, "picture must be Base64 of 19600 bytes, not 3"),
        (DRAW, {"picture": "ü"}, "picture must be Base64 of 19600 bytes, not 'ü'"),
        (DRAW, {"picture": PICTURE[:-4]}, "of 19600 bytes, not of 19599"),
        (DRAW, {"picture": "AAAA" + PICTURE}, "of 19600 bytes, not of 19603"),
        (WALK, {**POINT, "points": []}, "points must be a list of 1 to 81 entries, not list of 0"),
        (WALK, {**POINT, "points": [[0, 0]] * 82}, "points must be a list of 1 to 81 entries, not list of 82"),
        (WALK, {**POINT, "points": [[0]]}, "a point must have two numbers"),
        (WALK, {**POINT, "points": [[0, 0, 0]]}, "a point must be a list of 1 to 2 entries"),
        (WALK, {**POINT, "points": [[0, float("inf")]]}, "a point must be a number from -5 to 5, not inf"),
        (WALK, {**POINT, "points": [[0, float("nan")]]}, "a point must be a number from -5 to 5, not nan"),
        (WALK, {**POINT, "points": [[0, 10**400]]}, "a point must be a number from -5 to 5, not a huge one"),
        (WALK, {**POINT, "points": [[0, True]]}, "a point must be a number"),
        (WALK, {**POINT, "seed": -1}, "seed must be a whole number from 0 to 2147483647, not -1"),
        (WALK, {**POINT, "seed": 1.0}, "seed must be a whole number"),
        (WRITE, {**PROMPT, "prompt": "a" * 1001}, "prompt has at most 1000 characters, not 1001"),
        (WRITE, {**PROMPT, "prompt": None}, "prompt must be a text, not None"),
        (WRITE, {**PROMPT, "prompt": "aßb"}, "the model knows no 'ß'"),
        (WRITE, {**PROMPT, "prompt": "\ud800"}, "the model knows no"),
        (WRITE, {**PROMPT, "temperature": 0}, "temperature must be a number from 0.05 to 5, not 0"),
        (WRITE, {**PROMPT, "length": 10**9}, "length must be a whole number from 1 to 2000"),
        (TRANSLATE, {"text": ""}, "a text has from 1 to 36 characters, not 0"),
        (TRANSLATE, {"text": "1" * 37}, "text has at most 36 characters, not 37"),
        (TRANSLATE, {"text": "~"}, "the model knows no '~'"),
    ],
)
def test_bodies_that_are_refused(panels, index, body, message):
    with pytest.raises(ValueError, match=message):
        panels[index].answer(body)


def test_of_a_folder_the_runs_that_suit(runs, caplog):
    found = of_folder(runs)
    assert [each.facts["kind"] for each in found] == ["draw", "walk", "write", "translate"]
    assert [each.facts["run"] for each in found] == [
        str(runs / name) for name in ("draw", "walk", "write", "translate")
    ]
    assert f"{runs / 'damaged'} is left out: " in caplog.text
    assert len(caplog.records) == 1


def test_runs_without_a_panel_are_told(runs):
    with pytest.raises(ValueError, match="unsuited: the run does regression; the demo has panels for"):
        panel(runs / "unsuited")
    with pytest.raises(
        ValueError, match="iris: the data iris are no digits that can be drawn; the demo has panels for"
    ):
        panel(runs / "iris")


def test_where_there_is_no_run_models_that_ship_are_shown(tmp_path, monkeypatch):
    assert set(panels_module._SHIPPED) <= set(zoo.shipped_models())
    monkeypatch.setattr(panels_module, "_SHIPPED", ("lenet5_digits",))
    (found,) = of_folder(tmp_path)
    assert (found.facts["run"], found.facts["kind"]) == ("lenet5_digits", "draw")
