"""The jobs that ship: each loads, and runs through on a tiny table of its shape."""

from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
NAMES = [
    "aws-errors",
    "aws-errors-grouped",
    "aws-services",
    "debian-sections",
    "debian-tags",
    "distil",
    "imdb",
    "movie-genres",
    "mrpc",
    "screening-include",
    "screening-topics",
    "tweets",
]


def prepared(name, data, *overrides):
    job = TrainJob.load(CONFIGS / f"{name}.yaml", [f"data.train={data}", *overrides])
    return prepare(job)


def rows(found):
    return {split: table.num_rows for split, table in found.tables.items()}


def labels(found, split):
    codes = found.tables[split]["labels"].to_pylist()
    return [found.space.decode(row) for row in codes]


SCORE_NAMES = ["score-answers", "score-aws", "score-corpus", "score-debian", "score-teacher"]
TUNE_NAMES = ["tune-aws-errors", "tune-debian-tags"]


def test_all_configs_are_listed_here():
    assert sorted(path.stem for path in CONFIGS.iterdir()) == sorted(
        NAMES + SCORE_NAMES + TUNE_NAMES
    )


@pytest.mark.parametrize("name", NAMES + SCORE_NAMES + TUNE_NAMES)
def test_says_who_it_is_for_and_survives_a_round_trip(name, tmp_path):
    path = CONFIGS / f"{name}.yaml"
    assert path.read_text().startswith("# For ")
    kind = TuneJob if name in TUNE_NAMES else ScoreJob if name in SCORE_NAMES else TrainJob
    job = kind.load(path)
    again = tmp_path / "job.yaml"
    again.write_text(job.to_yaml())
    assert kind.load(again) == job


def test_settings_of_the_migrated_jobs():
    movies = TrainJob.load(CONFIGS / "movie-genres.yaml").training
    assert (movies.epochs, movies.batch_size, movies.warmup) == (15, 32, 0.1)
    assert movies.early_stopping.patience == 3
    tweets = TrainJob.load(CONFIGS / "tweets.yaml")
    assert (tweets.training.optimizer, tweets.model.max_length) == ("sgd", 64)
    assert TrainJob.load(CONFIGS / "imdb.yaml").training.metric == "macro_f1"


# ------------------------------------------------------------------ AWS, Debian


def aws_table(path):
    """Five services of 20 operations; the last operation of each raises nothing."""
    errors = [["NotFound", "Throttled"], ["NotFound"], ["Throttled"], ["Throttled", "OnlyHere"]]
    table = [
        {
            "service": f"service-{s}",
            "name": f"Get Thing {i}",
            "method": "GET",
            "text": f"Gets thing {i} of {s}.",
            "errors": [] if i == 19 else errors[i % 4] if (s, i) == (0, 3) else errors[i % 3],
        }
        for s in range(5)
        for i in range(20)
    ]
    parquet.write_table(pa.Table.from_pylist(table), path)
    return path


def test_aws_errors(tmp_path):
    data = aws_table(tmp_path / "aws.parquet")
    found = prepared("aws-errors", data, "data.labels.min_count=2")
    assert found.space.names == ("NotFound", "Throttled")
    assert rows(found) == {"train": 75, "validation": 10, "test": 10}
    assert found.report.num_empty == 5
    assert "Get Thing 0\n\nGets thing 0 of 0." in found.tables["train"]["text"].to_pylist()


def test_aws_errors_grouped_holds_out_whole_services(tmp_path):
    data = aws_table(tmp_path / "aws.parquet")
    found = prepared("aws-errors-grouped", data, "data.labels.min_count=2")
    assert rows(found) == {"train": 57, "validation": 19, "test": 19}
    services = {
        split: {text[-2] for text in table["text"].to_pylist()}
        for split, table in found.tables.items()
    }
    assert len(services["train"]) == 3
    assert set.union(*services.values()) == set("01234")


def test_aws_services(tmp_path):
    found = prepared("aws-services", aws_table(tmp_path / "aws.parquet"))
    assert found.space.names == tuple(f"service-{s}" for s in range(5))
    assert rows(found) == {"train": 80, "validation": 10, "test": 10}
    assert found.report.label_counts["test"] == {f"service-{s}": 2 for s in range(5)}


def debian_table(path):
    """100 packages; every tenth is untagged, every second has no description."""
    table = [
        {
            "package": f"package-{i}",
            "source": f"source-{i // 2}",
            "section": ("libs", "net")[i % 2] if i else "rare",
            "tags": None if i % 10 == 0 else ["devel::library", "role::program"][: 1 + i % 2],
            "summary": f"summary {i}",
            "description": f"description {i}" if i % 2 else None,
            "split": "train" if i < 80 else "validation" if i < 90 else "test",
        }
        for i in range(100)
    ]
    parquet.write_table(pa.Table.from_pylist(table), path)
    return path


def test_debian_sections(tmp_path):
    found = prepared("debian-sections", debian_table(tmp_path / "packages.parquet"))
    assert found.space.names == ("libs", "net")  # "rare" stands on fewer than 30 rows
    assert rows(found) == {"train": 79, "validation": 10, "test": 10}
    assert found.tables["test"]["text"].to_pylist()[:2] == [
        "summary 90",
        "summary 91\n\ndescription 91",
    ]
    assert found.tables["test"]["id"].to_pylist()[:2] == ["package-90", "package-91"]


def test_debian_tags(tmp_path):
    found = prepared("debian-tags", debian_table(tmp_path / "packages.parquet"))
    assert found.space.names == ("devel::library", "role::program")
    assert rows(found) == {"train": 72, "validation": 9, "test": 9}
    assert labels(found, "test")[:2] == [["devel::library", "role::program"], ["devel::library"]]
    assert found.report.num_without_label == 10


# ------------------------------------------------------------------ users' tables


def test_movie_genres(tmp_path):
    genres = [["Drama"], ["Comedy", "Drama"], ["Comedy"], ["Horror", "Drama"], []]
    table = {"plot": [f"A plot {i}." for i in range(100)], "genres": genres * 20}
    parquet.write_table(pa.table(table), tmp_path / "plots.parquet")
    found = prepared("movie-genres", tmp_path / "plots.parquet")
    assert found.space.names == ("Comedy", "Drama", "Horror")
    assert sum(rows(found).values()) == 80
    assert found.report.num_empty == 20
    counts = found.report.label_counts
    assert [sum(c[g] for c in counts.values()) for g in found.space.names] == [40, 60, 20]
    assert all(3 <= counts[split]["Comedy"] <= 5 for split in ("validation", "test"))


def test_tweets_with_numbered_classes_and_quoted_lines(tmp_path):
    path = tmp_path / "tweets.csv"
    lines = [f'"line {i}\nof, text",{i % 4 - 1}' for i in range(50)]
    path.write_text("\n".join(["text,label", *lines]))
    found = prepared("tweets", path)
    assert found.space.names == ("negative", "neutral", "positive", "unclear")
    assert rows(found) == {"train": 40, "validation": 10}
    assert "line 0\nof, text" in found.tables["train"]["text"].to_pylist()


def test_imdb(tmp_path):
    table = pa.table({"text": [f"<br />film {i}" for i in range(60)], "label": [0, 1] * 30})
    csv.write_csv(table, tmp_path / "imdb.csv")
    found = prepared("imdb", tmp_path / "imdb.csv")
    assert found.space.names == ("negative", "positive")
    assert found.space.positive == "positive"
    assert rows(found) == {"train": 42, "validation": 6, "test": 12}
    assert found.report.label_counts["test"] == {"negative": 6, "positive": 6}


def test_mrpc_keeps_the_splits_and_class_names_of_the_dataset(tmp_path):
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"]),
            "idx": datasets.Value("int32"),
        }
    )
    sizes = {"train": 8, "validation": 3, "test": 4}
    parts = {
        split: datasets.Dataset.from_dict(
            {
                "sentence1": [f"{split} one {i}" for i in range(n)],
                "sentence2": [f"{split} two {i}" for i in range(n)],
                "label": [i % 2 for i in range(n)],
                "idx": list(range(n)),
            },
            features=features,
        )
        for split, n in sizes.items()
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "mrpc")
    found = prepared("mrpc", tmp_path / "mrpc")
    assert found.space.names == ("not_equivalent", "equivalent")
    assert rows(found) == sizes
    assert found.tables["test"].select(["text", "text_pair", "id"]).to_pylist()[1] == {
        "text": "test one 1",
        "text_pair": "test two 1",
        "id": "1",
    }
    assert labels(found, "test")[:2] == [["not_equivalent"], ["equivalent"]]


def screening_table(path):
    """60 abstracts: 10 not screened yet, 5 of the others included; three topics."""
    table = {
        "pmid": list(range(60)),
        "title": [f"Title {i}" for i in range(60)],
        "abstract": [f"Abstract {i}." if i % 3 else None for i in range(60)],
        "decision": [None] * 10 + (["include"] + ["exclude"] * 9) * 5,
        "1 - Country": ["x"] * 60,
        "4 - Outcome: pain": [None] * 10 + [1, 0] * 25,
        "4 - Outcome: sleep": [None] * 10 + [0, 1, 1, 0, 0] * 10,
        "4 - Setting: home": [None] * 10 + [0] * 40 + [1] * 10,
    }
    feather.write_feather(pa.table(table), path)
    return path


def test_screening_include(tmp_path):
    found = prepared("screening-include", screening_table(tmp_path / "abstracts.feather"))
    assert found.space.names == ("exclude", "include")
    assert rows(found) == {"train": 34, "validation": 8, "test": 8}
    assert found.report.label_counts["train"]["include"] == 3
    assert found.report.num_without_label == 10


def test_screening_topics(tmp_path):
    found = prepared("screening-topics", screening_table(tmp_path / "abstracts.feather"))
    topics = ("4 - Outcome: pain", "4 - Outcome: sleep", "4 - Setting: home")
    assert found.space.names == topics
    assert sum(rows(found).values()) == 50
    totals = [sum(c[t] for c in found.report.label_counts.values()) for t in topics]
    assert totals == [25, 20, 10]
    assert [] in labels(found, "train")  # a row without a topic stays, as all negative


# ------------------------------------------------------------------ distillation


def test_distil(tmp_path):
    """30 packages of a score table: the teacher is wrong on each tenth."""
    sections = ["doc", "libs", "net"] * 10
    likely = ["net" if i % 10 == 0 else section for i, section in enumerate(sections)]
    table = {"summary": [f"Package {i}" for i in range(30)], "description": ["long"] * 30}
    table |= {"package": [f"p{i}" for i in range(30)], "section": sections}
    table |= {"split": (["train"] * 8 + ["validation", "test"]) * 3, "label": likely}
    for name in ("net", "doc", "libs"):
        table[f"p_{name}"] = [0.8 if name == own else 0.1 for own in likely]
    parquet.write_table(pa.table(table), tmp_path / "part-00000.parquet")
    found = prepared("distil", tmp_path)
    assert found.space.names == ("net", "doc", "libs")
    assert rows(found) == {"train": 24, "validation": 3, "test": 3}
    assert found.tables["train"]["targets"][1].as_py() == pytest.approx([0.1, 0.1, 0.8])
    assert labels(found, "train")[:2] == [["doc"], ["libs"]]
    assert "targets" not in found.tables["validation"].column_names
