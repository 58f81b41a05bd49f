"""`python -m bench.quantizers CHECKPOINT --text FILE`, from the repository's root."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bench.conditions import when_and_where
from bench.tables import framed, write_blocks
from flexquant.engine.errors import FlexQuantError, UsageError
from flexquant.engine.thread_waiting import sleep_while_waiting
from flexquant.ensemble_builder.arguments import positive

if TYPE_CHECKING:
    from bench.quantizers.compare import Compared
    from flexquant.engine.model_config import ModelConfig
    from flexquant.ensemble_builder.evaluation import Windows

SUITE = "quantizers"
"""Name of the block in the Markdown file, unless told otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and report. Returns the exit code."""
    sleep_while_waiting()
    try:
        _run(_parser().parse_args(arguments))
    except FlexQuantError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return FlexQuantError.exit_code
    return 0


def parse_widths(text: str) -> list[str]:
    """llama.cpp's types for widths such as "8,5,4".

    Raises:
        UsageError: A width has none.
    """
    from bench.quantizers.llama_quantizer import TYPES

    try:
        return [TYPES[int(part)] for part in text.split(",")]
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"--bits {text}: not a list of widths", hint=f"There are {','.join(str(width) for width in TYPES)}."
        ) from error


def _run(options: argparse.Namespace) -> None:
    """Everything is imported late: torch must not be there before `sleep_while_waiting`."""
    from bench.quantizers import report
    from bench.quantizers.compare import compare
    from flexquant.engine.model_config import read_model_config
    from flexquant.engine.tokenizer import Tokenizer
    from flexquant.ensemble_builder.evaluation import Windows, read_text
    from flexquant.ensemble_builder.options import PRESETS
    from flexquant.ensemble_builder.progress import Progress
    from flexquant.ensemble_builder.texts import text_windows

    kinds = parse_widths(options.bits)
    config, tokenizer = read_model_config(options.checkpoint), Tokenizer.open(options.checkpoint)
    text = read_text(options.text)
    if options.calibration is not None and read_text(options.calibration) == text:
        raise UsageError("--text and --calibration are the same text", hint="Give two texts.")
    windows = Windows.of_text(text, options.text.name, tokenizer, config, limit=options.windows)
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="quantizers-", dir=options.work) as folder:
        calibration = text_windows(
            options.calibration,
            PRESETS["standard"].calibration_tokens,
            model=options.checkpoint,
            seed=0,
            kept=Path(folder, "calibration.txt"),
            progress=progress,
        )
        compared = compare(
            options.checkpoint,
            kinds,
            windows=windows,
            calibration=calibration,
            work=Path(folder),
            python=options.peer_python,
            progress=progress,
        )
    where = _conditions(options.checkpoint, config, windows, calibration, compared)
    found = (compared.unquantized, compared.pairs)
    if options.markdown is not None:
        block = framed(options.block, where, report.markdown(*found))
        write_blocks(options.markdown, {options.block: block})
    if options.json:
        json.dump({"conditions": where, "rows": report.to_json(*found)}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        told = "".join(f"{name}: {value}\n" for name, value in where.items())
        sys.stdout.write(f"{told}\n{report.plain(*found)}")


def _conditions(
    checkpoint: Path, config: "ModelConfig", windows: "Windows", calibration: "Windows", compared: "Compared"
) -> Mapping[str, str]:
    """On what the figures were made, and what they mean."""
    from bench.quantizers.llama_quantizer import K_BLOCK
    from flexquant.ensemble_builder.bootstrap import RESAMPLES

    decoder = [shape for shape in config.linears() if shape.layer is not None]
    odd = [shape for shape in decoder if shape.in_features % K_BLOCK]
    names = ", ".join(sorted({f"{shape.key.rsplit('.', 1)[-1]} ({shape.in_features} inputs)" for shape in odd}))
    fallback = (
        f"{len(odd)} of {len(decoder)} decoder linears have inputs that are no multiple of {K_BLOCK}: {names}. For "
        "these llama.cpp falls back from K-quants to types of 32-weight blocks, which are wider"
        if odd
        else f"all {len(decoder)} decoder linears have inputs in multiples of {K_BLOCK}: K-quants everywhere"
    )
    count, window = windows.tokens.shape
    return {
        **when_and_where(),
        "model": f"{checkpoint.resolve().name}: {config.layers} layers, {config.hidden_size}/"
        f"{config.intermediate_size}; {fallback}",
        "text": f"{windows.text.name}, {count} windows of {window} tokens",
        "calibration": f"{calibration.text.name}, {calibration.text.tokens:,} tokens: for our levels and for "
        "llama.cpp's importance matrix",
        "theirs": f"llama-cpp-python {compared.peer} quantizes, gguf {metadata.version('gguf')} dequantizes",
        "ours": f"FlexQuant {metadata.version('flexquant')}: GPTQ, EXL2 in groups of 32, at the highest level, "
        "between 2 and 8, that takes no more stored bits",
        "measured": "by our evaluator in float32, both in the same way: only the decoder linears differ, embedding, "
        "norms and head are the unquantized model's",
        "bits": "all that is stored of the decoder linears over their weights; ours include scales and the order of "
        "inputs",
        "intervals": f"95 %, bootstrap over windows, {RESAMPLES:,} resamples; a ratio's two sides share the windows",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quantizers",
        description="Compare our quantizer with llama.cpp's at equal stored bits per weight.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="folder of an unquantized model")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="text to measure on")
    parser.add_argument(
        "--calibration", metavar="FILE", type=Path, help="another text (default: sampled from the model)"
    )
    parser.add_argument("--windows", metavar="N", type=positive, help="most windows of the text (default: all)")
    parser.add_argument("--bits", default="8,5,4,3,2", metavar="LIST", help="llama.cpp's types by width (default: all)")
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout, every window's too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="replace the block in this file")
    parser.add_argument("--block", metavar="NAME", default=SUITE, help=f"the block's name (default: {SUITE})")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder for temporary files (default: the system's)")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter with llama-cpp-python"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
