"""`flexquant-build sample-text`: text that a model makes up, for data-free calibration and search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flexquant.ensemble_builder.arguments import natural, new_parser, positive
from flexquant.ensemble_builder.atomic_file import write_atomically
from flexquant.ensemble_builder.device import add_device, choose_device
from flexquant.ensemble_builder.progress import Progress
from flexquant.ensemble_builder.text_sampling import sample_text

EXAMPLES: Final = """\
example:
  flexquant-build sample-text models/my-llama --tokens 20000 --seed 1 --out a.txt
"""


def run(given: Sequence[str]) -> None:
    """Parse the arguments, sample, and write the file.

    Raises:
        FlexQuantError: See `sample_text` and `write_atomically`.
    """
    parser = new_parser("flexquant-build sample-text", "Write text that a model makes up.", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a Hugging Face checkpoint")
    parser.add_argument("--tokens", metavar="N", type=positive, required=True, help="tokens to sample")
    parser.add_argument("--seed", metavar="S", type=natural, required=True, help="the same seed gives the same text")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="file to write")
    add_device(parser, "where the model runs")
    args = parser.parse_args(given)
    device = choose_device(args.device)
    write_atomically(args.out, sample_text(args.model, args.tokens, args.seed, Progress(), device=device).encode())
