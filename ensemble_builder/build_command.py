"""`flexquant-build MODEL` and `flexquant-build --from-checkpoints`: build an ensemble."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

from flexquant.engine.errors import UsageError
from flexquant.engine.manifest import Method
from flexquant.ensemble_builder.any_precision.import_packed import build_from_packed
from flexquant.ensemble_builder.any_precision.packed_checkpoint import PackedCheckpoint, is_packed
from flexquant.ensemble_builder.any_precision.widths import check_levels
from flexquant.ensemble_builder.arguments import minutes, natural, new_parser, positive, size
from flexquant.ensemble_builder.build import build
from flexquant.ensemble_builder.checkpoint_source import CheckpointSource
from flexquant.ensemble_builder.device import add_device, choose_device
from flexquant.ensemble_builder.imported_levels import build_from_levels
from flexquant.ensemble_builder.levels import check_nested, level_name, parse_levels
from flexquant.ensemble_builder.options import GROUP_SIZE, PRESETS, Preset, QuantizeOptions, SearchOptions
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.quantizer_choice import Asked as AskedQuantizer
from flexquant.ensemble_builder.quantizer_choice import choose_quantizer
from flexquant.ensemble_builder.units import parse_kinds

DEFAULT_LEVELS: Final[Mapping[Method, str]] = {"exl2": "8,3", "any-precision": "6,5,4,3"}

EXAMPLES: Final = """\
examples:
  flexquant-build models/my-llama --levels 8,3
  flexquant-build org/name@revision --levels 8,3
  flexquant-build models/my-llama --levels 8,4,2.5 --out my-ensemble --calibration a.txt --search-text b.txt
  flexquant-build --from-checkpoints my-llama-6.0bpw,my-llama-3.0bpw --out my-ensemble --checkpoint models/my-llama
  flexquant-build models/my-llama --method any-precision --levels 6,5,4,3
  flexquant-build anyprec-my-llama-w8_orig3 --checkpoint models/my-llama --out my-ensemble
  flexquant-build eval my-ensemble --text c.txt --checkpoint models/my-llama
  flexquant-build report my-ensemble --text c.txt --checkpoint models/my-llama
  flexquant-build models/my-llama --levels 8,4 --max-step 8M --unit projection,block --workers 4
  flexquant-build granularity models/my-llama --levels 8,4 --max-step 8M
  flexquant-build compare models/my-llama --levels 8,2 --levels 4,2 --text c.txt --out my-comparison
  flexquant-build prune my-ensemble --limit 5G --out my-ensemble-5G --checkpoint models/my-llama
  flexquant-build sample-text models/my-llama --tokens 20000 --seed 1 --out a.txt

org/name is a model on the Hugging Face Hub; it is downloaded first. A build that was stopped is continued by the same
command. Without --calibration and --search-text the texts are sampled from the model itself. `eval`, `report`,
`compare`, `granularity`, `prune` and `sample-text` have a --help of their own.
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments and build.

    Raises:
        FlexQuantError: See `build` and `build_from_levels`.
    """
    parser = new_parser("flexquant-build", "Build an elastic ensemble from a checkpoint.", EXAMPLES)
    parser.usage = (
        "flexquant-build MODEL --levels 8,3 [options]\n"
        "       flexquant-build --from-checkpoints A,B --out DIR [options]\n"
        "       flexquant-build eval ENSEMBLE --text FILE [options]\n"
        "       flexquant-build report ENSEMBLE --text FILE [options]\n"
        "       flexquant-build compare CHECKPOINT --levels 8,2 --text FILE --out DIR [options]\n"
        "       flexquant-build prune ENSEMBLE --limit BYTES --out DIR [options]\n"
        "       flexquant-build export ENSEMBLE --level 4.0 --out DIR [options]\n"
        "       flexquant-build granularity MODEL --levels 8,4 [options]\n"
        "       flexquant-build sample-text MODEL --tokens N --seed S --out FILE"
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder of a Hugging Face checkpoint, or org/name on the hub"
    )
    parser.add_argument(
        "--levels",
        metavar="BITS",
        help="bits per weight of each level, falling (default: 8,3, for Any-Precision 6,5,4,3, and of a packed "
        "checkpoint all that it has)",
    )
    parser.add_argument(
        "--method",
        choices=get_args(Method),
        help="how weights are quantized (default: exl2). With any-precision every level adds bits to the codes of the "
        "next one, so nothing is stored twice, and going down reads nothing",
    )
    parser.add_argument(
        "--quantizer",
        choices=get_args(AskedQuantizer),
        help="whose program makes EXL2 levels: own, on the CPU, or exllamav2's converter, on an NVIDIA GPU (default: "
        "auto: exllamav2's where it is installed, a GPU is used, and it can make them)",
    )
    parser.add_argument(
        "--from-checkpoints", metavar="A,B", help="EXL2 checkpoints of one model that exist already; search only"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        help="of levels that exist already: the unquantized model, to measure KL by",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="the ensemble's folder (default: ./MODEL-LEVELS)")
    parser.add_argument("--calibration", metavar="FILE", type=Path, help="text to calibrate on")
    parser.add_argument("--search-text", metavar="FILE", type=Path, help="another text, to search by")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="standard", help="how much is measured (default: standard)"
    )
    parser.add_argument("--calibration-tokens", metavar="N", type=positive, help="tokens to calibrate on")
    parser.add_argument("--search-tokens", metavar="N", type=positive, help="tokens to search by")
    parser.add_argument(
        "--group-size", metavar="N", type=positive, help=f"weights per scale (default: {GROUP_SIZE}; of EXL2 alone)"
    )
    parser.add_argument("--seed", metavar="N", type=natural, default=0, help="of texts that are sampled (default: 0)")
    parser.add_argument(
        "--nested",
        action="store_true",
        default=None,
        help="store each level but the last as what it adds to the next one: less disk, and nothing is read on the way "
        "down",
    )
    parser.add_argument(
        "--unit",
        metavar="LIST",
        action="append",
        default=[],
        help="what a step lowers: projection, block (attention or MLP) or layer; each that is named gets a sequence, "
        "the first is the default one (default: projection)",
    )
    parser.add_argument(
        "--max-step",
        metavar="BYTES",
        type=size,
        help="most memory that a projection gives back in one step, such as 8M; larger ones are cut into column slices "
        "(default: not cut)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive,
        default=1,
        help="processes that measure; the result is the same (default: 1)",
    )
    parser.add_argument(
        "--budget-evals",
        metavar="N",
        type=natural,
        help="most evaluations for the search of each sequence; two per transition are always spent (default: five per "
        "transition)",
    )
    parser.add_argument(
        "--budget-minutes",
        metavar="M",
        type=minutes,
        help="most minutes for the search of each sequence; the result then depends on the machine's speed",
    )
    add_device(parser)
    args = parser.parse_args(given)
    device = choose_device(args.device)
    if device != "cpu" and args.workers > 1:
        raise UsageError(
            f"--workers {args.workers}: one process alone measures on a GPU",
            hint="Leave --workers out, or use --device cpu.",
        )
    preset = PRESETS[args.preset]
    search = SearchOptions(
        text=args.search_text,
        tokens=args.search_tokens or preset.search_tokens,
        seed=args.seed,
        evaluations=preset.evaluations if args.budget_evals is None else args.budget_evals,
        minutes=args.budget_minutes,
        units=parse_kinds(args.unit),
        max_step=args.max_step,
        workers=args.workers,
        device=device,
    )
    progress = Progress()
    if args.from_checkpoints is not None:
        made = ["quantizer", "calibration", "calibration_tokens", "group_size"]
        _refuse(args, "--from-checkpoints", ["model", "levels", "method", "nested", *made])
        if args.out is None:
            raise UsageError("--from-checkpoints needs --out", hint="For example --out my-ensemble")
        sources = [CheckpointSource.parse(part.strip()) for part in args.from_checkpoints.split(",")]
        checkpoints = [source.folder(args.out, progress, quantized=True) for source in sources]
        name = None if args.checkpoint or sources[0].hub is None else sources[0].model_name
        build_from_levels(checkpoints, args.out, args.checkpoint, search, progress, name)
        return
    if args.model is None:
        parser.error("MODEL or --from-checkpoints is needed")
    source = CheckpointSource.parse(args.model)
    if is_packed(source.path):
        _refuse(
            args,
            "a packed Any-Precision checkpoint",
            ["nested", "quantizer", "calibration", "calibration_tokens", "group_size"],
        )
        _build_from_packed(source, args, search, progress)
        return
    _refuse(args, "an unquantized MODEL", ["checkpoint"])
    quantize = _quantize_options(args, preset, device, progress)
    out = _out(source, args, quantize.levels)
    checkpoint = source.folder(
        out,
        progress,
        quantized=False,
        levels=quantize.levels,
        group_size=quantize.group_size,
        method=quantize.method,
        nested=quantize.nested,
    )
    build(checkpoint, out, quantize, search, progress, source.model_name)


def _quantize_options(args: argparse.Namespace, preset: Preset, device: str, progress: Progress) -> QuantizeOptions:
    """Return how the levels are made.

    Raises:
        UsageError: The options make no sense together.
    """
    method: Method = args.method or "exl2"
    levels = parse_levels(DEFAULT_LEVELS[method] if args.levels is None else args.levels)
    if method == "any-precision":
        _refuse(args, "--method any-precision, whose levels are nested anyway", ["nested"])
        _refuse(args, "--method any-precision, which has no scales", ["group_size"])
        check_levels(levels)
    elif args.nested:
        check_nested(levels)
    own_alone = [
        "--method any-precision" if method == "any-precision" else "",
        "--nested" if args.nested else "",
        "--group-size" if args.group_size else "",
    ]
    return QuantizeOptions(
        levels=levels,
        calibration=args.calibration,
        calibration_tokens=args.calibration_tokens or preset.calibration_tokens,
        group_size=args.group_size or GROUP_SIZE,
        nested=bool(args.nested),
        method=method,
        quantizer=choose_quantizer(
            args.quantizer or "auto", levels, next(filter(None, own_alone), None), device, progress
        ),
    )


def _build_from_packed(
    source: CheckpointSource, args: argparse.Namespace, search: SearchOptions, progress: Progress
) -> None:
    if args.method == "exl2":
        raise UsageError(
            f"{source.path}: is a packed Any-Precision checkpoint, so --method exl2 cannot be had from it",
            hint="Leave --method out, or give the unquantized model.",
        )
    packed = PackedCheckpoint.open(source.path)
    levels = packed.levels if args.levels is None else parse_levels(args.levels)
    check_levels(levels)
    build_from_packed(packed, levels, _out(source, args, levels), args.checkpoint, search, progress)


def _out(source: CheckpointSource, args: argparse.Namespace, levels: Sequence[float]) -> Path:
    """Return the ensemble's folder: the one that was asked for, or one named after model and levels."""
    return args.out or Path("-".join([source.short_name, *map(level_name, levels)]))


def _refuse(args: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    """Raise UsageError if an option was given that means nothing together with `what`."""
    for name in names:
        if getattr(args, name) is not None:
            flag = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} cannot be used with {what}", hint="See flexquant-build --help.")
