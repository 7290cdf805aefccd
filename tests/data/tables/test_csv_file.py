"""Tables in CSV files: what becomes of each column, what is inferred and told, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import data

ROWS = "\n".join(f"{i},{i * 0.5},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(20))
TABLE = f"count,size,color,answer\n{ROWS}\n"


def table(tmp_path, text=TABLE, name="t.csv", encoding="utf-8"):
    (tmp_path / name).write_text(text, encoding=encoding)
    return f"csv:{tmp_path / name}"


def test_numbers_and_texts(tmp_path):
    dataset = data.load(table(tmp_path), standardize=False)
    assert dataset.spec.fields == {"features": ((4,), "float32"), "label": ((), "int32")}
    assert dataset.spec.classes == ("no", "yes")
    rows = np.concatenate([s.arrays["features"] for s in dataset.splits.values()])
    rows = rows[np.argsort(rows[:, 0])]
    numbers = np.arange(20)
    np.testing.assert_array_equal(rows, np.stack([numbers, numbers / 2, numbers % 3 == 0, numbers % 3 > 0], axis=1))
    assert {split: np.bincount(s.arrays["label"]).tolist() for split, s in dataset.splits.items()} == {
        "train": [8, 8],
        "test": [2, 2],
    }


@pytest.mark.parametrize(
    "change", [lambda t: t.replace(",", ";"), lambda t: t.replace(",", "\t"), lambda t: t.replace(",", " , ")]
)
def test_separators_and_spaces_do_not_matter(tmp_path, change):
    first, second = data.load(table(tmp_path)), data.load(table(tmp_path, change(TABLE), "other.csv"))
    assert first.spec == second.spec
    for split, source in first.splits.items():
        np.testing.assert_array_equal(source.arrays["features"], second.splits[split].arrays["features"])


def test_quotes_a_byte_order_mark_and_empty_lines(tmp_path):
    book = "b" * 200_000  # more than Python's module csv takes by itself
    text = 'name,n,y\n"a, b",1,p\n\n"a, b",2,q\n' + f'"say ""c""",3,p\n{book},4,q\n' * 3
    reader = data.load(table(tmp_path, text, encoding="utf-8-sig")).reader
    assert (reader.columns, reader.categories) == (("name", "n"), (("a, b", book, 'say "c"'), ()))


def test_the_statistics_are_those_of_the_train_split(tmp_path):
    dataset = data.load(table(tmp_path), target="size")
    train = dataset.preprocess(dict(dataset.splits["train"].arrays))
    for values in train.values():
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)
    raw = dataset.splits["test"].arrays["target"]
    scaled = dataset.preprocess(dict(dataset.splits["test"].arrays))["target"]
    np.testing.assert_allclose(dataset.reader.unscaled(scaled), raw, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "fields", "classes"),
    [
        ({"target": "size"}, {"features", "target"}, ()),
        ({"target": "count", "kind": "regression"}, {"features", "target"}, ()),
        ({"target": "color"}, {"features", "label"}, ("blue", "red")),
        ({"target": "count", "kind": "classification"}, {"features", "label"}, tuple(map(str, range(20)))),
    ],
)
def test_kinds_of_target(tmp_path, options, fields, classes):
    spec = data.load(table(tmp_path), test=0, **options).spec
    assert (set(spec.fields), spec.classes) == (fields, classes)


def test_few_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path):
    text = "x,y\n" + "\n".join(f"{i},{(2, 10, 1)[i % 3]}" for i in range(30))
    assert data.load(table(tmp_path, text)).spec.classes == ("1", "2", "10")


def test_columns_that_are_told(tmp_path):
    reader = data.load(table(tmp_path), categorical=["count"], ignore=["size"]).reader
    assert reader.columns == ("count", "color")
    assert len(reader.categories[0]) == 20


def test_a_reader_reads_other_lines_and_comes_back_from_json(tmp_path):
    reader = data.load(table(tmp_path)).reader
    again = data.TableReader.of(
        **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(reader).items()}
    )
    assert again == reader
    path = tmp_path / "new.csv"
    path.write_text("color;extra;size;count\nred;z;0.5;7\n")  # another order, no target
    np.testing.assert_array_equal(again.read(path), [[7, 0.5, 0, 1]])
    path.write_text("color,size,count\nred,1,2\ngreen,1,2\n")
    with pytest.raises(ValueError, match=r"'color' holds 'green' in line 3, which training did not see; known"):
        again.read(path)
    path.write_text("color,size\nred,1\n")
    with pytest.raises(ValueError, match="has no column 'count'; it has color, size"):
        again.read(path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TABLE.replace("3,1.5,", ",1.5,").replace("5,2.5,", "NA,2.5,"), {}, r"'count': 2 of 20, the first in line 5"),
        (TABLE.replace("1.5,blue", "1.5,?"), {}, r"lacks values; .*\n  column 'color': 1 of 20, the first in line 5"),
        (TABLE + "1,2\n", {}, "line 22 has 2 cells, and the first line names 4 columns"),
        (
            TABLE + '"1,2,red,yes\n3,4,"red",no\n',
            {},
            r"row that begins in line 22 do not match \(line 23: .*is doubled",
        ),
        (TABLE + '"1,2,red,yes\n', {}, "row that begins in line 22 do not match"),
        ("", {}, "has no rows"),
        ("a,b\n", {}, "has no rows"),
        ("1,2\n3,4\n", {}, "the first line holds numbers where the names"),
        ("a,a\n3,4\n", {}, "each column needs a name of its own"),
        (TABLE, {"target": "nothing"}, "has no column 'nothing'; it has count, size, color, answer"),
        (
            TABLE,
            {"ignore": "count,size"},
            r"several columns are written \[count,size\]",
        ),
        (TABLE, {"ignore": ["count", "size", "color"]}, "has no column beside the target 'answer'"),
        (TABLE, {"kind": "clustering"}, 'kind must be "auto"'),
        (TABLE, {"target": "color", "kind": "regression"}, "'color' holds 'blue' in line 2, which is no finite number"),
        (TABLE.replace("yes", "no"), {}, "'no' in every line; there is nothing to tell"),
        ("n,y\n" + "\n".join(f"name {i},{i % 2}" for i in range(200)), {}, r"holds 200 different texts.*leave it out"),
        ("n,y\n" + "\n".join(f"{i},name {i}" for i in range(40)), {}, r"40 different values in 40 lines"),
        ("n,y\n1e300,1\n2,0\n3,1\n4,0\n", {}, "'n' holds '1e300' in line 2, which is no finite number"),
        ("5.1,3.5,setosa\n1,2,other\n", {}, "the first line holds numbers where the names"),
        (
            "n,y\n1,1\nabc,0\n3,1\n",
            {},
            r"'n' holds numbers, but 'abc' in line 3; mend it, .*\(data_options\.categorical=NAME\)",
        ),
        ("n,y\ninf,1\n2,0\n3,1\n4,0\n", {}, "'n' holds 'inf' in line 2, which is no finite number"),
    ],
)
def test_what_is_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        data.load(table(tmp_path, text), **options)


def test_decimal_commas(tmp_path):
    text = "a;b\n" + "".join(f"{i},5;{'xy'[i % 2]}\n" for i in range(20))
    dataset = data.load(table(tmp_path, text), standardize=False)
    assert dataset.spec.fields["features"].shape == (1,)
    assert set(dataset.splits["train"].arrays["features"][:, 0]) <= {i + 0.5 for i in range(20)}


def test_a_column_of_numbers_and_texts_that_is_said_to_hold_names(tmp_path):
    dataset = data.load(table(tmp_path, "n,y\n" + "1,1\nabc,0\n3,1\n" * 3), categorical="n")
    assert dataset.spec.fields["features"].shape == (3,)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file /.*/nothing\.csv"):
        data.load("csv:nothing.csv")
    (tmp_path / "latin.csv").write_bytes("a,b\né,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is not UTF-8.*at byte 4; convert it"):
        data.load(f"csv:{tmp_path / 'latin.csv'}")
