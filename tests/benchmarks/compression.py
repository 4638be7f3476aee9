"""What compression makes of a training state, and what a core takes for it: a small transformer with AdamW.

It learns this repository's own text, word by word, so that its weights and moments are of a real training. Seconds are
of the processor time of one thread; decoding includes both digests, as a restore does it.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Case, write_results

from holdfast.engine.checkpoint.adapters.torch import TorchAdapter
from holdfast.engine.checkpoint.compression import BlobEncoder, Compression
from holdfast.engine.checkpoint.encoding import decoded
from holdfast.engine.checkpoint.format import BlobRef, digest_of

ROOT = Path(__file__).parents[2]
WORDS, WINDOW, WIDTH = 8192, 64, 256


class Transformer(torch.nn.Module):
    """Four layers, 7.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.places = torch.nn.Embedding(WINDOW, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.1, batch_first=True, norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.out = torch.nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, words: Any) -> Any:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        places = self.places(torch.arange(words.shape[1]))
        return self.out(self.norm(self.layers(self.words(words) + places, mask=mask, is_causal=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench/compression.json"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = words()
    cases = []
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        blobs = state(text, dtype, options.steps)
        for policy, level in (("auto", 1), ("auto", 3)):
            cases += measured(f"{name}, {policy}, level {level}", blobs, Compression(policy, level), options.rounds)
    write_results(options.output, cases, ["torch", "zstandard", "numpy", "blake3"])


def words() -> Any:
    """The repository's text as numbers of its commonest words; the rest are 0."""
    files = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/**/*.py"))]
    found = re.findall(r"\w+|\W", "".join(path.read_text(encoding="utf-8") for path in files))
    number = {word: place + 1 for place, (word, _) in enumerate(Counter(found).most_common(WORDS - 1))}
    return torch.tensor([number.get(word, 0) for word in found])


def state(text: Any, dtype: Any, steps: int) -> dict[str, bytes]:
    """The blobs of the state after so many steps of eight windows each."""
    torch.manual_seed(0)
    module = Transformer().to(dtype)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3 if dtype is torch.float32 else 3e-4)
    for step in range(1, steps + 1):
        starts = torch.randint(0, len(text) - WINDOW - 1, (8,))
        batch = torch.stack([text[start : start + WINDOW + 1] for start in starts])
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            module(batch[:, :-1]).reshape(-1, WORDS).float(), batch[:, 1:].reshape(-1)
        )
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"{dtype}: step {step}, loss {loss.item():.2f}", flush=True)
    return dict(TorchAdapter(module, optimizer).state().blobs)


def measured(name: str, blobs: dict[str, bytes], compression: Compression, rounds: int) -> list[Case]:
    """Bytes stored per blob and in all, and seconds of a core; a blob that does not come back is no measurement."""
    encoder, cases = BlobEncoder(compression), []
    plain = stored = 0
    encoding_seconds = decoding_seconds = 0.0
    for blob, data in blobs.items():
        content = digest_of(data)
        (reference, frame), seconds = _best(lambda data=data, content=content: encoder.form(data, content), rounds)
        encoding_seconds += seconds
        if reference.encoding is not None:
            back, seconds = _best(lambda reference=reference, frame=frame: _decode(frame, reference), rounds)
            decoding_seconds += seconds
            if back != len(data):
                raise SystemExit(f"{blob} did not come back: nothing to report")
            share = len(frame) / len(data)
            cases.append(
                Case(f"{name}: {blob}, {reference.encoding}", "bytes", "B", len(frame), "plain", len(data), share)
            )
        plain, stored = plain + len(data), stored + len(frame)
    speed = "MB/s of a core"
    return [
        *cases,
        Case(name, "bytes", "B", stored, "plain", plain, stored / plain),
        Case(name, "encode", speed, plain / encoding_seconds / 1e6),
        Case(name, "decode", speed, plain / decoding_seconds / 1e6),
    ]


def _decode(frame: bytes, reference: BlobRef) -> int:
    return sum(len(block) for block in decoded([frame], reference, where="a benchmark"))


def _best(call: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    found: Any = None
    least = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        found = call()
        least = min(least, time.thread_time() - began)
    return found, least


if __name__ == "__main__":
    main()
