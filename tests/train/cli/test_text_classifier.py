"""Texts of a user's own, from the files to predictions."""

from __future__ import annotations

import random

import pytest

from tests.train.cli.command import error, parsed, run
from train.inference import predict

pytestmark = pytest.mark.slow

SMALL = ["model_options.hidden_size=16", "model_options.num_heads=2", "model_options.mlp_dim=16", "epochs=6"]


@pytest.fixture(scope="module")
def critics(tmp_path_factory):
    """A folder with texts as a CSV file, and a run on them."""
    folder, chance = tmp_path_factory.mktemp("critics"), random.Random(0)
    rows = ["label,text"]
    for label, words in (("good", ["fine", "great", "lovely"]), ("bad", ["dull", "poor", "weak"])):
        for _ in range(200):
            said = chance.choices(words, k=2) + chance.choices(["the", "film", "was", "and", "so", "it"], k=4)
            chance.shuffle(said)
            rows.append(f"{label},{' '.join(said)}")
    (folder / "critics.csv").write_text("\n".join(rows))
    wanted = [
        f"data=texts:{folder / 'critics.csv'}",
        "data_options.length=12",
        "learning_rate=1e-2",
        "model_options.dropout_rate=0.1",
    ]
    return folder, parsed("train", "text_classifier", *wanted, *SMALL, "--run", folder / "run")


def test_training_and_evaluating(critics):
    folder, report = critics
    assert report["test_accuracy"] > 0.9
    assert parsed("evaluate", folder / "run")["test_accuracy"] == report["test_accuracy"]


def test_texts_are_classified_where_the_table_is_not(critics, tmp_path, caplog):
    folder, _ = critics
    (folder / "critics.csv").rename(folder / "gone.csv")
    try:
        said = parsed("predict", folder / "run", "--text", "the film was so lovely", "--text", "Dull and weak")
        assert [(each["file"], each["label"]) for each in said] == [
            ("the film was so lovely", "good"),
            ("Dull and weak", "bad"),
        ]
        (tmp_path / "a.txt").write_text("so weak, so poor")
        (tmp_path / "b.tsv").write_text("text\ngreat\npoor\n")
        found = run("predict", folder / "run", tmp_path).splitlines()
        assert [line.split(" (")[0] for line in found] == [
            f"{tmp_path / 'a.txt'}: bad",
            f"{tmp_path / 'b.tsv'}, row 1: good",
            f"{tmp_path / 'b.tsv'}, row 2: bad",
        ]
        with caplog.at_level("WARNING"):
            predict(folder / "run", texts=["zzz", "great"])
        assert caplog.messages == ["the model knows no word of 'zzz'; its answer says how long they are, and no more"]
        assert "a text without a word says nothing: ' '" in error("predict", folder / "run", "--text", " ")
    finally:
        (folder / "gone.csv").rename(folder / "critics.csv")
