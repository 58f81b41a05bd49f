"""A program that behaves like exllamav2's converter, without a GPU: arguments, files, resuming, errors and exit codes.

Rules are those of exllamav2 0.3.2, `conversion/`; only the weights are rounded by `plain_exl2`. It can be told to fail
once: `--faults FILE` names a JSON object of moments and what then happens; what has happened is taken out of it.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from flexquant.engine.model_config import EMBEDDING, HEAD, ModelConfig, read_model_config
from flexquant.engine.tensor_index import TensorIndex
from support.checkpoints import write_safetensors
from support.plain_exl2 import Tensors, converted_layer

HEADS = (2, 3, 4, 5, 6, 8)
OPTIONS = (2.25, 3.5, 4.25, 6.5, 8.1)
"""Bits per weight of the ways to quantize a block."""
MIX_ROWS = {"measurement": 19, "dataset": 115}


class OutOfMemoryError(RuntimeError):
    """As torch has it."""

    __module__ = "torch"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def refuse(line: str) -> None:
    """Say what is wrong and end, as the real one does: with exit code 0."""
    say(line)
    sys.exit()


@dataclass
class Converter:
    """The state of a run."""

    job: dict[str, Any]
    folder: Path
    config: ModelConfig
    faults: Path | None

    def save(self) -> None:
        (self.folder / "job_new.json").write_text(json.dumps(self.job, indent=4))

    def status(self, stage: str, done: int, total: int) -> None:
        if self.job["status_output"]:
            say(f"[STATUS]{json.dumps({'stage': stage, 'completion': round(done / total, 4)})}[/STATUS]")

    def moment(self, name: str) -> None:
        """Fail, if that is what was asked for at this moment."""
        name = f"{'measure' if self.job['output_measurement'] else self.job['bits']}:{name}"
        wanted = json.loads(self.faults.read_text()) if self.faults else {}
        kind = wanted.pop(name, None)
        if kind is None or self.faults is None:
            return
        self.faults.write_text(json.dumps(wanted))
        match kind:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "nan":
                say(" ## Measurement/inference error (2): hidden_states")
                os._exit(1)
            case "half a file":
                (self.folder / "job_new.json").write_text('{"in_dir": ')
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                self.faults.with_suffix(".pid").write_text(str(os.getpid()))
                time.sleep(120)
            case "leaves":
                sys.exit()
            case _:
                raise AssertionError(f"no such fault: {kind}")

    def parts(self) -> list[str]:
        blocks = [f"model.layers.{i}.{part}" for i in range(self.config.layers) for part in ("self_attn", "mlp")]
        return ["model.embed_tokens", *blocks, "model.norm", HEAD]

    def tokens(self, kind: str) -> None:
        length = self.job["measurement_length" if kind == "measurement" else "length"]
        if self.job["cal_dataset"] is not None:
            found = text_tokens(self.job["cal_dataset"], Path(self.job["in_dir"]), self.job[f"{kind}_rows"], length)
        else:
            if length % 128:
                raise RuntimeError("Sizes of tensors must match except in dimension 0.")
            self.job[f"{kind}_rows"] = MIX_ROWS[kind]
            found = np.random.default_rng().integers(0, 99, (MIX_ROWS[kind], min(2048, length)))
        path = self.folder / "cal_data.safetensors"
        write_safetensors(path, {"input_ids": found.astype(np.int64)})
        self.job["cal_filename"] = str(path)

    def states(self) -> None:
        (self.folder / "hidden_states.safetensors").write_bytes(bytes(1000))

    def checkpoint(self, at: str, index: int) -> None:
        """What the real one does every three minutes, here after every part."""
        self.job["invalid"] = True
        self.save()
        self.states()
        self.moment(f"invalid {index}")
        self.job[at] = index
        del self.job["invalid"]
        self.save()
        self.moment(f"part {index}")

    def measure(self) -> None:
        parts, measurement = self.parts(), self.job.get("measurement", {})
        index = self.job.setdefault("last_module_idx", 0)
        if index:
            say(f" -- Resuming from layer: {parts[index]}")
        while True:
            self.status("Measuring", index, len(parts))
            index += 1
            if index >= len(parts):
                break
            say(f" -- Layer: {parts[index]}")
            key, mode = parts[index].rpartition(".")[::2]
            shapes = [shape for shape in self.config.linears() if shape.key.startswith(f"{parts[index]}.")]
            weights = sum(shape.in_features * shape.out_features for shape in shapes)
            options = [{"accuracy": 1 - 2.0**-bits, "total_bits": int(bits * weights)} for bits in OPTIONS]
            if not shapes:
                key, mode = parts[index], "linear" if parts[index] == HEAD else "norm"
            measurement[f"{key}.{mode}"] = options if shapes else None
            self.job["measurement"] = measurement
            self.checkpoint("last_module_idx", index)
        self.status("Measuring", len(parts), len(parts))
        exported = {"measurement": self.job["measurement"], "last_module_idx": self.job["last_module_idx"]}
        for path in (self.folder / "measurement.json", self.job["output_measurement"]):
            Path(path or self.folder / "measurement.json").write_text(json.dumps(exported, indent=4))
        self.moment("exported")

    def quantize(self) -> None:
        parts, checkpoint = self.parts(), Path(self.job["in_dir"])
        index = self.job.setdefault("q_last_module_idx", 0)
        while True:
            self.status("Quantizing", index, len(parts))
            index += 1
            if index >= len(parts):
                break
            for shape in self.config.linears():
                if shape.key == parts[index] or shape.key.startswith(f"{parts[index]}."):
                    bits = self.job["head_bits"] if shape.layer is None else self.job["bits"]
                    say(f" -- Linear: {shape.key}")
                    path = self.folder / "out_tensor" / f"{shape.key}.safetensors"
                    write_safetensors(path, converted_layer(checkpoint, self.config, shape, bits))
            self.checkpoint("q_last_module_idx", index)
        self.status("Quantizing", len(parts), len(parts))

    def compile(self) -> None:
        source, out = Path(self.job["in_dir"]), Path(self.job["compile_full"])
        out.mkdir(parents=True, exist_ok=True)
        dense = TensorIndex.open(source)
        tensors: Tensors = {name: dense.floats(name).astype(np.float16) for name in (EMBEDDING, *self.config.norms())}
        for shape in self.config.linears():
            index = TensorIndex.open(self.folder / "out_tensor")
            for name in index.names():
                if name.rpartition(".")[0] == shape.key:
                    kind = {"I32": np.int32, "I16": np.int16, "F16": np.float16}[index[name].dtype]
                    tensors[name] = index.content(name).view(kind).reshape(index[name].shape)
        temporary = out / "output_temp_1.safetensors"
        write_safetensors(temporary, tensors)
        self.moment("compiling")
        temporary.rename(out / "output.safetensors")
        for path in source.iterdir():
            if path.is_file() and path.suffix not in (".safetensors", ".bin"):
                shutil.copy(path, out / path.name)
        used = self.job["cal_dataset"]
        described = json.loads((out / "config.json").read_text()) | {
            "quantization_config": {
                "quant_method": "exl2",
                "version": "0.3.2",
                "bits": self.job["bits"],
                "head_bits": self.job["head_bits"],
                "calibration": {
                    "rows": self.job["dataset_rows"],
                    "length": self.job["length"],
                    "dataset": "(default)" if used is None else os.path.split(used)[1],
                },
            }
        }
        (out / "config.json").write_text(json.dumps(described, indent=4))
        self.moment("compiled")

    def run(self) -> None:
        """Go from stage to stage, saving the job after each."""
        self.save()
        while self.job["progress"] != "finished":
            match self.job["progress"]:
                case "begin" if "reuse_measurement" in self.job:
                    following = "optimize"
                case "begin":
                    self.tokens("measurement")
                    following = "initial_embeddings"
                case "initial_embeddings":
                    self.states()
                    following = "measure_quant"
                case "measure_quant":
                    self.measure()
                    following = "optimize" if self.job["output_measurement"] is None else "finished"
                case "optimize":
                    self.job["strategy"] = strategy(self.job["measurement"], self.job["bits"])
                    following = "tokens_cal"
                case "tokens_cal":
                    self.tokens("dataset")
                    following = "embeddings"
                case "embeddings":
                    self.states()
                    following = "quant"
                case "quant":
                    self.quantize()
                    following = "compile"
                case _:
                    self.compile()
                    following = "finished"
            self.job["progress"] = following
            self.save()
            self.moment(f"before {following}")
        say(" -- Finished")


def strategy(measurement: dict[str, Any], bits: float) -> dict[str, Any]:
    """The largest way to quantize each block that is within the bits; the smallest if none is."""
    found = {}
    for key, options in measurement.items():
        if options is not None:
            least = options[0]["total_bits"] / OPTIONS[0]
            within = [option for option in options if option["total_bits"] <= bits * least]
            found[key] = (within or options)[-1 if within else 0]
    return found


def text_tokens(parquet: str, model: Path, rows: int, length: int) -> NDArray[np.int64]:
    """[rows, length] tokens of a Parquet file."""
    pandas: Any = importlib.import_module("pandas")
    frame = pandas.read_parquet(parquet, engine="fastparquet")
    library = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens: list[int] = []
    for values in frame.values:
        tokens += library.encode(" ".join(map(str, values)), add_special_tokens=False).ids
    if len(tokens) < rows * length:
        say(f" ** Warning: Not enough sample data in {parquet}")
        raise RuntimeError(f"shape '[{rows}, {length}]' is invalid for input of size {len(tokens)}")
    say(f" -- First 50 tokens of dataset: {library.decode(tokens[:50])!r}")
    return np.array(tokens[: rows * length], dtype=np.int64).reshape(rows, length)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--faults", type=Path)
    for short, long in (("-i", "in_dir"), ("-o", "out_dir"), ("-cf", "compile_full"), ("-c", "cal_dataset")):
        parser.add_argument(short, f"--{long}", default="" if short == "-i" else None)
    parser.add_argument("-b", "--bits", type=float, default=4.125)
    parser.add_argument("-ss", "--shard_size", type=float, default=8192)
    parser.add_argument("-hb", "--head_bits", type=int, default=6)
    parser.add_argument("-om", "--output_measurement")
    parser.add_argument("-m", "--measurement")
    parser.add_argument("-r", "--dataset_rows", type=int, default=100)
    parser.add_argument("-mr", "--measurement_rows", type=int, default=16)
    parser.add_argument("-l", "--length", type=int, default=2048)
    parser.add_argument("-ml", "--measurement_length", type=int, default=2048)
    parser.add_argument("-so", "--status_output", action="store_true")
    args = parser.parse_args()
    job_file = Path(args.out_dir or "") / "job_new.json"
    if not args.out_dir:
        refuse(" ## Please specify output/working directory (-o, --out_dir)")
    if not args.in_dir and not job_file.exists():
        refuse(" ## Please specify input model directory (-i, --in_dir)")
    if args.head_bits not in HEADS:
        refuse(f" ## Error: {args.head_bits} is not a supported option for head layer bitrate")
    if args.output_measurement is not None and args.compile_full is not None:
        refuse(" ## Conflicting options: --output_measurement and --compile_full")
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    job = {name: value for name, value in vars(args).items() if name not in ("faults", "measurement")}
    job |= {"shard_size": args.shard_size if args.shard_size > 0 else 1024**3, "progress": "begin"}
    if args.measurement is not None:
        job |= json.loads(Path(args.measurement).read_text()) | {"reuse_measurement": args.measurement}
    if job_file.exists():
        say(" -- Resuming job")
        resumed = json.loads(job_file.read_text())
        del resumed["out_dir"]
        job |= resumed
        if "invalid" in job:
            refuse(" ** Error: Corrupted job")
        if job["progress"] == "finished":
            refuse(" !! Job is already finished. Clear the working directory.")
    else:
        say(" -- Beginning new job")
    (folder / "out_tensor").mkdir(exist_ok=True)
    job["status_output"] = args.status_output
    Converter(job, folder, read_model_config(Path(job["in_dir"])), args.faults).run()


if __name__ == "__main__":
    main()
