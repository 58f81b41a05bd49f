"""A whole comparison: builds what is missing, measures, and gathers the figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from flexquant.engine.ensemble import Ensemble
from flexquant.engine.model_config import read_model_config
from flexquant.engine.tokenizer import Tokenizer
from flexquant.ensemble_builder.build import build
from flexquant.ensemble_builder.compare.contents import Comparison
from flexquant.ensemble_builder.compare.downstream import Choices, chosen_right
from flexquant.ensemble_builder.compare.ensembles import Measuring, compare_ensemble
from flexquant.ensemble_builder.compare.ladder import (
    Rung,
    make_ladder,
    open_rung,
    rung_bytes,
    rung_decoder,
    rung_footprint,
    widths_of,
)
from flexquant.ensemble_builder.compare.options import CompareOptions
from flexquant.ensemble_builder.compare.scores import Scores
from flexquant.ensemble_builder.evaluation import Reference, Windows, final_hidden, measure_windows, read_text
from flexquant.ensemble_builder.evaluation_setup import unquantized
from flexquant.ensemble_builder.file_hashes import checkpoint_sha256
from flexquant.ensemble_builder.folder_lock import alone
from flexquant.ensemble_builder.levels import level_name
from flexquant.ensemble_builder.options import QuantizeOptions, SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.same_model import check_same_model
from flexquant.ensemble_builder.sequence_search import fingerprint
from flexquant.ensemble_builder.texts import text_windows


def compare(
    wanted: Sequence[QuantizeOptions],
    ready: Sequence[Path],
    quantize: QuantizeOptions,
    search: SearchOptions,
    options: CompareOptions,
    progress: Progress,
) -> Comparison:
    """Compare ensembles of one checkpoint.

    Args:
        wanted: The ensembles to build where they are missing, in `out/ensembles`.
        ready: Folders of ensembles that exist already.
        quantize: How the ladder is made; its own levels are not used.
        search: How the built ensembles are searched for.
        options: What to measure.
        progress: Is told what is being done.

    Raises:
        UsageError: The text is one that a build has seen, there is nothing to compare, or another process compares
            there.
        FlexQuantError: See `build`, `make_ladder` and `compare_ensemble`.
    """
    checkpoint = options.checkpoint
    config, tokenizer = read_model_config(checkpoint), Tokenizer.open(checkpoint)
    unseen = Windows.of_text(read_text(options.text), options.text.name, tokenizer, config, limit=options.windows)
    choices = Choices.of(unseen, config.bos_id, options.seed)
    with alone(options.out, options.out / "lock", "compares"):
        folders = []
        for asked in wanted:
            folder = options.out / "ensembles" / _folder_name(asked)
            build(checkpoint, folder, asked, search, progress)
            folders.append(folder)
        folders += ready
        ensembles = [Ensemble.open(folder) for folder in folders]
        for ensemble in ensembles:
            check_same_model([ensemble.common.folder, checkpoint])
        ends = [(found.manifest.levels[0].bits, found.manifest.levels[-1].bits) for found in ensembles]
        widths = widths_of(ends)
        ladder = options.out / "ladder"
        calibration = _calibration(quantize, search, options, progress)
        minutes = make_ladder(checkpoint, widths, ladder, calibration, quantize.group_size, progress)
        rungs = _rungs(ladder, widths, unseen, choices, options, progress)
        sizes = {bits: rung_bytes(ladder, bits) for bits in widths}
        searched = _search_windows(search, options, bool(wanted), progress)
        measuring = Measuring(options, unseen, choices, searched, replace(search, evaluations=0))
        compared = [compare_ensemble(folder, measuring, rungs, sizes, progress) for folder in folders]
    return Comparison(
        model=checkpoint.resolve().name,
        compared=tuple(compared),
        rungs=tuple(rungs),
        ladder_bytes=sum(own for own, _ in sizes.values()) + max((common for _, common in sizes.values()), default=0),
        ladder_minutes=minutes,
        questions=len(choices.options),
        calibration=calibration.text,
    )


def _folder_name(asked: QuantizeOptions) -> str:
    kind = ["nested"] if asked.nested else [] if asked.method == "exl2" else [asked.method]
    return "-".join([*kind, *map(level_name, asked.levels)])


def _rungs(
    folder: Path,
    widths: Sequence[float],
    unseen: Windows,
    choices: Choices,
    options: CompareOptions,
    progress: Progress,
) -> list[Rung]:
    """Measure the whole models."""
    config, measured = read_model_config(options.checkpoint), options.out / "measured"
    measured.mkdir(parents=True, exist_ok=True)
    # Its files are not hashed: make_ladder sees to it that they are of one making, and the checkpoint is.
    key = fingerprint({}, (), unseen, f"{checkpoint_sha256(options.checkpoint)} {(folder / 'ladder.json').read_text()}")
    found = []
    with Scores(measured / "ladder.jsonl", key) as scores:
        names = {bits: level_name(bits) for bits in widths}
        missing = [bits for bits in widths if not {names[bits]} <= scores.qualities.keys() & scores.choices.keys()]
        where = torch.device(options.device)
        hidden = final_hidden(unquantized(options.checkpoint, config, where), unseen) if missing else None
        with progress.stage("ladder on the unseen text", len(widths), done=len(widths) - len(missing)) as stage:
            for bits in widths:
                store, name = open_rung(folder, bits), names[bits]
                if hidden is not None and bits in missing:
                    reference = Reference(unquantized(options.checkpoint, config, where), hidden)
                    decoder = rung_decoder(store, options.device)
                    scores.add_quality(name, measure_windows(decoder, final_hidden(decoder, unseen), unseen, reference))
                    scores.add_choices(name, chosen_right(decoder, choices))
                    stage.advance()
                found.append(Rung(bits, rung_footprint(store), scores.qualities[name], scores.choices[name]))
    return found


def _calibration(
    quantize: QuantizeOptions, search: SearchOptions, options: CompareOptions, progress: Progress
) -> Windows:
    """Return the text that the ensembles' builds calibrate on."""
    return text_windows(
        quantize.calibration,
        quantize.calibration_tokens,
        model=options.checkpoint,
        seed=search.seed,
        kept=options.out / "texts" / f"calibration-{search.seed}-{quantize.calibration_tokens}.txt",
        progress=progress,
        device=search.device,
    )


def _search_windows(search: SearchOptions, options: CompareOptions, built: bool, progress: Progress) -> Windows | None:
    """Return the text of the searches; None where exhaustive greedy is not wanted, or the text is not known.

    Args:
        search: How built ensembles are searched for.
        options: What to measure.
        built: Whether the comparison builds ensembles, which then were searched on a text that can be sampled again.
        progress: Is told of the sampling.
    """
    if not options.exhaustive:
        return None
    model = options.checkpoint
    if search.text is not None:
        config = read_model_config(model)
        return Windows.of_text(read_text(search.text), search.text.name, Tokenizer.open(model), config)
    if not built:
        return None
    kept = options.out / "texts" / f"search-{search.seed + 1}-{search.tokens}.txt"
    return text_windows(
        None, search.tokens, model=model, seed=search.seed + 1, kept=kept, progress=progress, device=search.device
    )
