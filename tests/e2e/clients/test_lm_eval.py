"""lm-evaluation-harness scores local tasks over /v1/completions as it does with the same model in its own process."""

import json
import random
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

TEXT = Path(__file__).parents[2] / "assets" / "text" / "validation.txt"
"""The model has not been calibrated with it."""
CHOICE, ROLLING = "passage_ends", "passage_perplexity"
WINDOW = 512
"""Tokens that a text is scored with at a time: the longer texts need several."""
AGREEMENT = 1e-6
"""The promise is 0.1 %, but so much would hide a token that was left out."""

Scores = dict[str, Any]


def choices(text: str, count: int) -> list[dict[str, Any]]:
    """Which of four ends belongs to a passage: its own, or one of three others'."""
    words, rng = text.split(), random.Random(7)
    passages = [words[start : start + 60] for start in range(0, len(words) - 60, 60)]
    documents = []
    for _ in range(count):
        chosen = rng.sample(passages, 4)
        ends = [" ".join(passage[45:]) for passage in chosen]
        right = rng.randrange(4)
        ends[0], ends[right] = ends[right], ends[0]
        documents.append({"context": " ".join(chosen[0][:45]), "ends": ends, "right": right})
    return documents


def write_task(folder: Path, name: str, documents: list[dict[str, Any]], **more: object) -> None:
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
    folder, text = tmp_path_factory.mktemp("tasks"), TEXT.read_text()
    write_task(
        folder,
        CHOICE,
        choices(text, 24),
        output_type="multiple_choice",
        doc_to_text="{{context}}",
        doc_to_choice="{{ends}}",
        doc_to_target="{{right}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    write_task(
        folder,
        ROLLING,
        [{"text": text[start:end]} for start, end in ((0, 500), (500, 2500), (2500, 10000))],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )
    return folder


def evaluated(tasks: Path, model: object, **arguments: object) -> Scores:
    """What the harness finds."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return dict(
        lm_eval.simple_evaluate(model, tasks=[CHOICE, ROLLING], task_manager=manager, bootstrap_iters=0, **arguments)
    )


@pytest.fixture(scope="module")
def offline(tasks: Path) -> Iterator[Scores]:
    model = InProcessLM(resolve(DEMO), WINDOW)
    yield evaluated(tasks, model)
    model.close()


@pytest.fixture(scope="module", params=[1, 4], ids=["one at a time", "four at a time"])
def served(tasks: Path, daemon: KeyedDaemon, request: pytest.FixtureRequest) -> Scores:
    access = {
        "model": "demo",
        "base_url": f"{daemon.base}/completions",
        "tokenizer": str(resolve(DEMO) / "levels" / "8.0"),
        "max_length": WINDOW + 1,
        "num_concurrent": request.param,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        return evaluated(tasks, "local-completions", model_args=access)


def scores(found: Scores, task: str) -> list[list[float]]:
    """Log-likelihoods of a task's documents, in their order."""
    documents = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [
        [float(answer[0] if task == CHOICE else answer) for answer in sample["filtered_resps"]] for sample in documents
    ]


def test_choices(offline: Scores, served: Scores) -> None:
    ours, theirs = (found["results"][CHOICE] for found in (offline, served))
    assert theirs["acc,none"] == ours["acc,none"] > 0.25, "chance"
    assert theirs["acc_norm,none"] == ours["acc_norm,none"]
    for one, other in zip(scores(offline, CHOICE), scores(served, CHOICE), strict=True):
        assert one == pytest.approx(other, rel=AGREEMENT)


def test_perplexity(offline: Scores, served: Scores) -> None:
    for name in ("word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"):
        assert served["results"][ROLLING][name] == pytest.approx(offline["results"][ROLLING][name], rel=AGREEMENT)
    assert scores(served, ROLLING) == [pytest.approx(score, rel=AGREEMENT) for score in scores(offline, ROLLING)]
