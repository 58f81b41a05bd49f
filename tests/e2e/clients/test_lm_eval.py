"""lm-evaluation-harness scores local tasks over /v1/completions as it does with the same model in its own process."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from flexquant.server.model_source import DEMO, resolve
from support.in_process_lm import InProcessLM
from support.keyed_daemon import KEY, KeyedDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

ASSETS = Path(__file__).parents[2] / "assets"
WINDOW = 512
"""Tokens that a text is scored with at a time: the longer ones need several."""
AGREEMENT = 1e-3


def passages() -> list[str]:
    """Texts that the model has not been calibrated with."""
    text = (ASSETS / "text" / "validation.txt").read_text()
    return [passage for passage in text.split("\n\n\n") if len(passage.split()) > 80]


def choices(texts: list[str], count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Which of four ends belongs to a passage: its own, or one of three others'."""
    documents = []
    for _ in range(count):
        chosen = rng.sample(texts, 4)
        ends = [" ".join(text.split()[40:55]) for text in chosen]
        right = rng.randrange(4)
        ends[0], ends[right] = ends[right], ends[0]
        documents.append({"context": " ".join(chosen[0].split()[:40]), "ends": ends, "right": right})
    return documents


def task(folder: Path, name: str, documents: list[dict[str, Any]], **more: object) -> None:
    """Write a task and its documents; JSON is YAML."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    described = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **more,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(described))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a multiple-choice task and one of rolling log-likelihoods."""
    folder, texts = tmp_path_factory.mktemp("tasks"), passages()
    task(
        folder,
        "passage_ends",
        choices(texts, 40, random.Random(7)),
        output_type="multiple_choice",
        doc_to_text="{{context}}",
        doc_to_choice="{{ends}}",
        doc_to_target="{{right}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    task(
        folder,
        "passage_perplexity",
        [{"text": "\n\n\n".join(texts[start : start + size])} for start, size in ((0, 1), (1, 2), (3, 8))],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    )
    return folder


Scores = dict[str, Any]
NAMES = ["passage_ends", "passage_perplexity"]


@pytest.fixture(scope="module")
def offline(tasks: Path) -> Iterator[Scores]:
    model = InProcessLM(resolve(DEMO), WINDOW)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    yield lm_eval.simple_evaluate(model, tasks=NAMES, task_manager=manager, bootstrap_iters=0)
    model.close()


@pytest.fixture(scope="module")
def served(tasks: Path, daemon: KeyedDaemon, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """What the program `lm_eval` writes."""
    return {}
