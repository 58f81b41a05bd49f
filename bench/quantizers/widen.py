"""`python -m bench.quantizers.widen CHECKPOINT --text FILE --out DIR`: a trained checkpoint with wider MLPs.

For comparing quantizers on matrices whose inputs are multiples of 256 everywhere, which small trained models seldom
have. MLP neurons are split in two that together do what the one did, so that the wider model begins as the same
function (the idea of Net2WiderNet, arXiv 1511.05641); then it is trained on by text until the halves have parted.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from flexquant.ensemble_builder.arguments import natural, positive
from flexquant.ensemble_builder.progress import Progress

K_BLOCK: Final = 256
WINDOW: Final = 512
BATCH: Final = 4
RATE: Final = 3e-4
NOISE: Final = 0.02
"""Relative to the weights: enough to tell two halves apart, so that training can move them away from each other."""


def widen(model: Any, intermediate: int, seed: int) -> None:
    """Split neurons of every MLP of a Hugging Face Llama until there are `intermediate`.

    Args:
        model: A `LlamaForCausalLM`, which is changed.
        intermediate: Neurons that each MLP has then.
        seed: Of which neurons are split, and of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers:
        mlp = layer.mlp
        have = mlp.down_proj.in_features
        chosen = torch.randperm(have, generator=generator)[: intermediate - have]
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight = _parameter(torch.cat([linear.weight.data, linear.weight.data[chosen]]))
            linear.out_features = intermediate
        down = mlp.down_proj.weight.data.clone()
        down[:, chosen] /= 2
        mlp.down_proj.weight = _parameter(torch.cat([down, down[:, chosen]], dim=1))
        mlp.down_proj.in_features = intermediate
        for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
            weight = linear.weight.data
            weight += NOISE * weight.std() * torch.randn(weight.shape, generator=generator)
    model.config.intermediate_size = intermediate


def train(model: Any, tokens: Sequence[int], steps: int, seed: int, progress: Progress) -> list[float]:
    """Train a causal language model on; returns the loss of every step, in nats per token.

    Args:
        model: A `LlamaForCausalLM`, which is changed.
        tokens: The text, at least a window of it.
        steps: Batches of `BATCH` windows of `WINDOW` tokens from random places.
        seed: Of the places.
        progress: Is told every step.
    """
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    with progress.stage("training", steps) as stage:
        for _ in range(steps):
            starts = [rng.randrange(len(tokens) - WINDOW + 1) for _ in range(BATCH)]
            batch = torch.tensor([tokens[start : start + WINDOW] for start in starts])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            stage.advance()
    return losses


def _parameter(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight)


def main(arguments: Sequence[str] | None = None) -> int:
    """Widen, train, save. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantizers.widen", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="folder of a Llama")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="to train on")
    parser.add_argument("--intermediate", metavar="N", type=positive, default=768, help="neurons of an MLP (768)")
    parser.add_argument("--steps", metavar="N", type=positive, default=300, help="of training (300)")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of everything random (0)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the wider model")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.checkpoint)
    have = model.config.intermediate_size
    if not have < options.intermediate <= 2 * have or options.intermediate % K_BLOCK:
        parser.error(f"--intermediate: a multiple of {K_BLOCK}, more than {have} and at most {2 * have}")
    tokens = tokenizer(options.text.read_text(), add_special_tokens=False).input_ids
    if len(tokens) < WINDOW:
        parser.error(f"--text: {len(tokens)} tokens are too few, {WINDOW} are needed")
    widen(model, options.intermediate, options.seed)
    losses = train(model, tokens, options.steps, options.seed, Progress())
    model.to(torch.float16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    few = max(1, len(losses) // 10)
    sys.stdout.write(
        f"{options.out}: MLPs of {have} neurons widened to {options.intermediate}; training loss from "
        f"{sum(losses[:few]) / few:.3f} to {sum(losses[-few:]) / few:.3f} nats per token\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
