"""`flexquant-estimate MODEL`: what a model would take, from headers and its config alone."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from flexquant.clients.sizes import format_size
from flexquant.engine.compute import choose_compute
from flexquant.engine.config_fields import ConfigFields
from flexquant.engine.ensemble import Ensemble
from flexquant.engine.errors import FlexQuantError, InputError, UsageError
from flexquant.engine.hub_id import HubId
from flexquant.engine.manifest import MANIFEST_NAME
from flexquant.engine.model_config import read_model_config
from flexquant.ensemble_builder.arguments import new_parser, size
from flexquant.ensemble_builder.levels import check_nested, parse_levels
from flexquant.ensemble_builder.options import GROUP_SIZE
from flexquant.ensemble_builder.planned_ensemble import planned_ensemble, stored_bytes
from flexquant.ensemble_builder.report.sizes import storage_of
from flexquant.server.estimate.figures import KV_TOKENS, Estimate, estimate_of
from flexquant.server.model_source import DEMO, LEVELS, demo_folder
from flexquant.server.settings import load_settings
from flexquant.server.startup import demand_of, make_monitor, make_parameters, measure_room

PROGRAM: Final = "flexquant-estimate"
CONFIG: Final = "config.json"
EXAMPLES: Final = """\
examples:
  flexquant-estimate demo
  flexquant-estimate my-ensemble
  flexquant-estimate models/my-llama --levels 8,4 --max-step 8M
  flexquant-estimate org/name --json

MODEL is an ensemble's folder, a checkpoint's folder or its config.json, or org/name[@revision] on the hub, of which
only the config is downloaded. Whether it fits is judged as flexquant-serve would start, by FLEXQUANT_* variables too.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        found = _estimate(given)
    except FlexQuantError as error:
        sys.stderr.write(f"{PROGRAM}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    sys.stdout.write((json.dumps(asdict(found), indent=2) if given.json else for_people(found)) + "\n")
    return 0


def _estimate(given: argparse.Namespace) -> Estimate:
    path = demo_folder() if given.model == DEMO else Path(given.model).expanduser()
    if (path / MANIFEST_NAME).is_file():
        for flag, value in (("--levels", given.levels), ("--max-step", given.max_step), ("--nested", given.nested)):
            if value:
                raise UsageError(
                    f"{flag}: {path} is an ensemble that is built already", hint="Give the checkpoint it was built of."
                )
        ensemble = Ensemble.open(path)
        return _judged(ensemble, storage_of(path, ensemble.manifest).disk_bytes, download=None, built=True)
    levels = parse_levels(given.levels or LEVELS)
    if given.nested:
        check_nested(levels)
    folder, download = _checkpoint(given.model, path)
    config = read_model_config(folder)
    name = given.model if download is not None else folder.resolve().name
    ensemble = planned_ensemble(
        config, levels, group_size=GROUP_SIZE, max_step=given.max_step, nested=given.nested, name=name
    )
    disk = stored_bytes(config, levels, GROUP_SIZE, nested=given.nested)
    return _judged(ensemble, disk, download=download, built=False)


def _checkpoint(model: str, path: Path) -> tuple[Path, int | None]:
    """The folder of an unquantized checkpoint's config, and what is to be downloaded, if it is on the hub."""
    if path.is_file() and path.name == CONFIG:
        path = path.parent
    if (path / CONFIG).is_file():
        if ConfigFields.read(path / CONFIG).section("quantization_config").text("quant_method", "") == "exl2":
            raise InputError(
                f"{path}: this is a single EXL2 checkpoint, and an ensemble needs two of the same model",
                hint="Build one of two with flexquant-build --from-checkpoints, then estimate that; or give the "
                "unquantized checkpoint.",
            )
        return path, None
    hub = None if path.exists() else HubId.parse(model)
    if hub is None:
        raise InputError(
            f"{model}: neither an ensemble ({MANIFEST_NAME}) nor a checkpoint ({CONFIG}) is there",
            hint="Give a folder, or a model on the hub as org/name.",
        )
    # Imported late: folders have no use for it.
    from flexquant.ensemble_builder.hub.fetch import fetch_config

    return fetch_config(hub)


def _judged(ensemble: Ensemble, disk_bytes: int, *, download: int | None, built: bool) -> Estimate:
    settings = load_settings(["--model", DEMO])
    parameters = make_parameters(settings)
    demand = demand_of(ensemble, choose_compute(settings.kernels, settings.threads))
    room = measure_room(make_monitor(settings), parameters, ensemble.sequence().footprint_bytes)
    return estimate_of(
        ensemble,
        demand,
        room,
        parallel=settings.parallel,
        disk_bytes=disk_bytes,
        download_bytes=download,
        built=built,
    )


def for_people(found: Estimate) -> str:
    """The figures as lines."""
    low, up = found.footprint_range_bytes
    steps, fit = found.steps, found.fit
    how = "built" if found.built else "not built; computed from its config"
    disk = f"{format_size(found.disk_bytes)} for the ensemble"
    if found.download_bytes is not None:
        disk += f", after a download of {format_size(found.download_bytes)}"
    if fit.fits:
        start = f"position {fit.position} with {fit.context:,} tokens of context"
        verdict = f"fits: {format_size(fit.available_bytes)} available, it would start at {start}"
    else:
        verdict = f"does not fit: {fit.why_not}"
    nested = ", nested" if found.nested else ""
    lines = [
        f"{found.model}: {found.architecture}, {found.parameters / 1e6:.1f} M parameters ({how})",
        f"levels    {', '.join(found.levels)} bits{nested}",
        f"weights   {format_size(up)} at position 0, {format_size(low)} at position {steps.steps}",
        f"steps     {steps.steps} of {format_size(round(steps.mean_bytes))} in the mean, "
        f"{format_size(steps.most_bytes)} at most",
        f"beside    {format_size(found.kv_bytes)} of KV cache for each {KV_TOKENS:,} tokens (at most "
        f"{found.context:,}), {format_size(found.working_bytes)} to work with",
        f"disk      {disk}; {format_size(found.embedding_bytes)} of it, the embedding, is read where it lies",
        f"now       {verdict}",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    made = new_parser(PROGRAM, "Tell what a model takes, without loading it.", EXAMPLES)
    made.add_argument("model", metavar="MODEL", help="an ensemble, a checkpoint, a model on the hub, or 'demo'")
    made.add_argument("--levels", metavar="BITS", help=f"bits of each level, falling (default: {LEVELS})")
    made.add_argument("--max-step", metavar="BYTES", type=size, help="cut into slices of at most so much, such as 8M")
    made.add_argument("--nested", action="store_true", help="as flexquant-build --nested")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made
