"""Tables of predictions that other people made, as files: what is wrong is named before anything
is computed, and no row, column or model is lost without a word.
"""

import gzip
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from lengths import only_long

from fairgrape.judge.predictions import Predictions, predictions_of, read_predictions

LABEL = [0, 1, 0, 1, 0, 1]
DENSE = [0, 1, 0, 1, 0, 0]
SMALL = [1, 0, 0, 1, 0, 0]


def faces() -> pd.DataFrame:
    "Six images of two groups and two models; the ids have leading zeros"
    ids = [f"{i:03d}" for i in range(6)]
    return pd.DataFrame(
        dict(id=ids, label=LABEL, dense=DENSE, small=SMALL, group=["a", "b", "b"] * 2)
    )


def written(folder: Path, **tables: pd.DataFrame) -> list[Path]:
    "Each table as a CSV file of its name"
    files = [folder / f"{name}.csv" for name in tables]
    for file, table in zip(files, tables.values()):
        table.to_csv(file, index=False)
    return files


def codes(read: Predictions) -> dict[str, list[int]]:
    "Each model's predictions of the only head"
    return {model: own[:, 0].tolist() for model, own in read.predicted.items()}


def test_leading_zeros_of_ids_stay(tmp_path):
    (file,) = written(tmp_path, all=faces())
    read = read_predictions(file)
    assert read.ids.tolist() == ["000", "001", "002", "003", "004", "005"]
    assert codes(read) == dict(dense=DENSE, small=SMALL)


def test_a_number_column_of_ids_meets_one_of_text(tmp_path):
    "Parquet keeps numbers, CSV has text: 7 and 7 are one image, 7 and 007 are two"
    table = faces().assign(id=range(6))
    (csv,) = written(tmp_path, small=table[["id", "small"]][::-1])
    table.drop(columns="small").to_parquet(tmp_path / "dense.parquet")
    read = read_predictions([tmp_path / "dense.parquet", csv])
    assert codes(read) == dict(dense=DENSE, small=SMALL)
    (padded,) = written(tmp_path, padded=faces()[["id", "small"]])
    with pytest.raises(ValueError, match=r"padded.csv lacks 6 of 6 ids .* \(0, 1, 2 and 3 more\)"):
        read_predictions([tmp_path / "dense.parquet", padded])


def test_rows_in_another_order_are_joined_by_id(tmp_path):
    table = faces()
    shuffled = table.sample(frac=1, random_state=3)
    assert shuffled.id.tolist() != table.id.tolist()
    files = written(
        tmp_path,
        known=table[["id", "label", "group"]],
        dense=shuffled[["id", "dense"]],
        small=table[["id", "small"]][::-1],
    )
    assert codes(read_predictions(files)) == dict(dense=DENSE, small=SMALL)


def test_a_byte_order_mark_spaces_and_capitals(tmp_path):
    text = faces().rename(columns=dict(id="ID", label="Label")).to_csv(index=False)
    (tmp_path / "all.csv").write_text(text.replace(",", ", "), encoding="utf-8-sig")
    read = read_predictions(str(tmp_path / "all.csv"))
    assert read.ids[0] == "000" and codes(read) == dict(dense=DENSE, small=SMALL)
    assert read.groups.group.tolist() == ["a", "b", "b"] * 2


def test_two_runs_of_one_dense_network(tmp_path):
    "Two run folders: the dense network counts once, the pruned ones are called after their runs"
    table = pd.DataFrame(
        dict(
            row=range(6),
            path=[f"{i}.png" for i in range(6)],
            split="test",
            group=["a", "b", "b"] * 2,
            label_shade=LABEL,
            dense_shade=DENSE,
        )
    )
    files = [tmp_path / name / "predictions.parquet" for name in ("ws-0.9", "fairgrape-0.9")]
    for file, pruned in zip(files, (SMALL, [0] * 6)):
        file.parent.mkdir()
        table.assign(pruned_shade=pruned).to_parquet(file, index=False)
    read = read_predictions(files)
    assert codes(read) == {
        "dense": DENSE,
        "pruned ws-0.9": SMALL,
        "pruned fairgrape-0.9": [0] * 6,
    }
    assert any("dense is the same in" in note for note in read.notes)
    with pytest.raises(ValueError, match="ws-0.9 is a folder: do you mean .*predictions.parquet"):
        read_predictions(files[0].parent)


def test_a_model_that_changed_nothing_stays_a_model(tmp_path):
    own = faces()[["id", "label", "group", "dense"]].rename(columns=dict(dense="pred"))
    files = written(tmp_path, before=own, quantised=own)
    assert codes(read_predictions(files)) == dict(before=DENSE, quantised=DENSE)


def test_gaps_of_two_files_are_added_up(tmp_path):
    "Two files have columns of one name; both have a gap, in different rows"
    table = faces()
    files = written(
        tmp_path,
        known=table[["id", "label", "group"]],
        dense=pd.DataFrame(dict(id=table.id, pred_p=[np.nan, 0.9, 0.1, 0.9, 0.1, 0.1])),
        small=pd.DataFrame(dict(id=table.id, pred_p=[0.9, 0.1, 0.1, 0.9, 0.1, np.nan])),
    )
    with pytest.raises(ValueError, match=r"in 2 of 6 rows: .*pred_p in 2 \(000, 005\)"):
        read_predictions(files)
    read = read_predictions(files, drop_missing=True)
    assert codes(read) == dict(dense=DENSE[1:5], small=SMALL[1:5])
    assert "2 of 6 images are left out, incomplete (group: a 1, b 1)" in read.notes
    for own in read.probabilities.values():
        assert np.allclose(own["label"].sum(axis=1), 1)


@pytest.mark.parametrize("word", ["", "NA", "nan", "None", "null"])
@pytest.mark.parametrize("column", ["label", "dense", "small", "group"])
def test_a_gap_is_never_a_class_or_a_group(tmp_path, column, word):
    table = faces().astype(str)
    table.loc[2, column] = word
    (file,) = written(tmp_path, all=table)
    with pytest.raises(ValueError, match=rf"in 1 of 6 rows: .*{column} in 1 \(002\)"):
        read_predictions(file)
    read = read_predictions(file, drop_missing=True)
    assert read.ids.tolist() == ["000", "001", "003", "004", "005"]
    assert read.classes == {"label": ["0", "1"]}
    lost = "without a group 1" if column == "group" else "b 1"
    assert f"1 of 6 images are left out, incomplete (group: {lost})" in read.notes


def test_numbers_and_the_same_numbers_as_text(tmp_path):
    table = faces()
    table["group"] = [1, 2, 2] * 2
    table[["id", "label", "group", "dense"]].to_parquet(tmp_path / "a.parquet")
    other = table.assign(group=["1.0", "2", "2"] * 2, label=table.label.astype(str))
    other[["id", "label", "group", "small"]].to_parquet(tmp_path / "b.parquet")
    read = read_predictions([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert codes(read) == dict(dense=DENSE, small=SMALL)
    assert read.groups.group.tolist() == ["1", "2", "2"] * 2
    (said,) = [note for note in read.notes if '"1" and 1 are one name' in note]
    assert "label of" in said and "group of" in said and "b.parquet" in said


def test_ten_comes_after_two(tmp_path):
    table = faces().assign(label=[2, 10, 2, 10, 2, 10], dense=[2, 10, 2, 10, 2, 2], small=[10] * 6)
    (file,) = written(tmp_path, all=table)
    assert read_predictions(file).classes == {"label": ["2", "10"]}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (dict(id=["000", "000", "002", "003", "004", "004"]), {}, r"2 of 4 ids .* \(000, 004\)"),
        (dict(id=["", *map(str, range(5))]), {}, "the column id has no id in 1 of 6 rows"),
        (dict(group="a"), {}, "all images are in one group"),
        (dict(small=LABEL), {}, "small is equal to the labels in all 6 rows"),
        (dict(small=LABEL), dict(models=["dense", "small"]), "small is equal to the labels"),
        (dict(small=["x"] * 6), {}, "only one model was found, dense"),
        ({}, dict(models=["label", "small"]), "column of true classes and was named as a model"),
        ({}, dict(groups="grp"), "no column 'grp': did you mean group"),
        (dict(dense_p=[3.1, -2, 4, 1, 0.2, -7]), {}, "look like logits: apply sigmoid"),
        (dict(dense_p_0=0.4, dense_p_1=0.5), {}, "do not sum to 1 .but to 0.9., in 6 of 6 rows"),
        (dict(dense_p_0=-0.5, dense_p_1=1.5), {}, "dense .* in 6 of 6 rows"),
        (dict(dense_p_0=0.5), {}, "no column for the class 1"),
    ],
)
def test_what_cannot_be_right(tmp_path, change, options, said):
    (file,) = written(tmp_path, all=faces().assign(**change))
    with pytest.raises(ValueError, match=said):
        read_predictions(file, **options)


def test_sixty_groups_and_one_more():
    n = 122
    table = pd.DataFrame(
        dict(
            id=range(n),
            label=[0, 1] * 61,
            dense=[0, 0] * 61,
            small=[1, 1] * 61,
            group=[f"g{i % 60}" for i in range(n)],
        )
    )
    assert predictions_of(table).groups.group.nunique() == 60
    with pytest.raises(ValueError, match="there are 61 groups, up to 60 can be judged"):
        predictions_of(table.assign(group=[f"g{i % 61}" for i in range(n)]))


def test_a_truncated_gzip_and_parquet(tmp_path):
    packed = gzip.compress(faces().to_csv(index=False).encode())
    (tmp_path / "all.csv.gz").write_bytes(packed[:-9])
    with pytest.raises(ValueError, match="all.csv.gz cannot be read as CSV"):
        read_predictions(tmp_path / "all.csv.gz")
    faces().to_parquet(tmp_path / "all.parquet")
    whole = (tmp_path / "all.parquet").read_bytes()
    (tmp_path / "all.parquet").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="all.parquet cannot be read as parquet"):
        read_predictions(tmp_path / "all.parquet")


def test_files_without_ids_are_joined_by_row_and_that_is_said(tmp_path):
    table = faces().drop(columns="id")
    files = written(tmp_path, dense=table.drop(columns="small"), small=table[["small"]])
    read = read_predictions(files)
    assert codes(read) == dict(dense=DENSE, small=SMALL)
    assert "the files are joined by it: are they in one order?" in read.notes[0]
    (short,) = written(tmp_path, short=table[["small"]][:5])
    with pytest.raises(ValueError, match="short.csv lacks 1 of 6 ids"):
        read_predictions([files[0], short])


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_rows_and_columns_and_any_names_of_classes(tmp_path, seed):
    "A random table, written in several ways, gives the codes that it was made of"
    rng = np.random.default_rng(seed)
    n, C = int(rng.integers(20, 60)), int(rng.integers(2, 5))
    true, dense, small = rng.integers(0, C, (3, n))
    true[:C] = dense[:C] = small[:C] = np.arange(C)
    small[-1] = (true[-1] + 1) % C
    dense[-1] = (true[-1] + 1) % C
    names = np.array(sorted(rng.choice(["no", "yes", "sad", "calm", "a_p_b", "x y"], C, False)))
    table = pd.DataFrame(
        dict(
            path=[f"{i}.png" for i in range(n)],
            label=names[true],
            dense=names[dense],
            small=names[small],
            group=np.where(np.arange(n) % 3, "b", "a"),
            group_age=np.arange(n) % 4,
        )
    )
    table = table[rng.permutation(table.columns)]
    shuffled = table.iloc[rng.permutation(n)]
    files = written(
        tmp_path, one=table.drop(columns="small"), two=shuffled[["path", "label", "small"]]
    )
    for read in (predictions_of(table), read_predictions(files)):
        assert read.classes == {"label": names.tolist()}
        assert read.labels[:, 0].tolist() == true.tolist()
        assert codes(read) == dict(dense=dense.tolist(), small=small.tolist())
        assert read.groups.age.tolist() == [str(i % 4) for i in range(n)]


def test_a_million_images_and_forty_heads(request):
    only_long(request, "a million images take 20 seconds and 1 GB")
    n, rng = 1_000_000, np.random.default_rng(0)
    columns = {}
    for h in range(40):
        true = rng.integers(0, 2, n, dtype=np.int8)
        columns[f"label_a{h}"] = true
        for model in ("dense", "pruned"):
            columns[f"{model}_a{h}"] = np.where(rng.random(n) < 0.1, 1 - true, true)
    names = np.array([f"g{i}" for i in range(14)], dtype=object)
    table = pd.DataFrame(columns | dict(id=np.arange(n), group=names[rng.integers(0, 14, n)]))
    before = psutil.Process().memory_info().rss
    start = time.process_time()
    read = predictions_of(table)
    seconds = time.process_time() - start
    grown = psutil.Process().memory_info().rss - before
    assert seconds < 30 and grown < 2.5e9, (seconds, grown)
    assert read.labels.shape == (n, 40) and len(read.ids) == n
    for h in (0, 39):
        assert (read.predicted["pruned"][:, h] == columns[f"pruned_a{h}"]).all()
