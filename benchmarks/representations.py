"""Compares representations: errors of the object's position read from the features, and a policy's success on them.

    ./rlfp bench representations [--only cnn/vae spatial] [--seeds 0 1 2] [--success] [--minutes 30]
                                 [--folder runs/representations] [--json FILE]
                                 [--document docs/explanation/representations.md]

All learn from the same images of `reach` under the profile `train`, with the same number of gradient steps on as
many images each. Then the encoder is frozen, and two probes learn the object's position from its features: a linear
one and a small network. Their errors are medians on images that were not used for training, under `train` and under the
held-out `validation`. With `--success` a policy also imitates the teacher on the frozen features (each image alone,
no reinforcement learning) and plays fresh episodes under both.

A cell (one encoder and representation, one seed) takes minutes; its result is a file in the folder, and a cell whose
file is there is not run again: stop and continue as you like. `--minutes` starts no cell after that time; 0 only makes
the table. What is missing is shown as missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and OpenCV read it

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlfp_ros.cli.parsing import add_result, duration, natural, parse_benchmark
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.evaluation.results import figure_text, put_between, write_json
from rlfp_ros.learning.algorithms.networks import RunningNormaliser
from rlfp_ros.learning.cell import load_cell
from rlfp_ros.learning.encoders.encoder import Encoder, EncoderChoice, features_of
from rlfp_ros.learning.recipes.frames import Frames, FrameSource, held_out_count
from rlfp_ros.learning.recipes.train_encoder import EncoderTraining, train_encoder
from rlfp_ros.seeds import BENCHMARKS, CountedSeeds
from rlfp_ros.simulation.environment import ManipulationEnv

TASK = "reach"
NOTHING = "nothing"  # an untrained encoder: the baseline of the probes with random features
CELLS = (
    "spatial/supervised",
    "cnn/supervised",
    "vit/supervised",
    "cnn/autoencoder",
    "cnn/vae",
    "cnn/vae_l1",
    "spatial/dsae",
    "cnn/curl",
    "spatial/curl",
    "cnn/depth",
    "cnn/inverse_dynamics",
    "cnn/reward_prediction",
    "cnn/pixel_control",
    "spatial/supervised+depth",
    "spatial/supervised+inverse_dynamics",
    "spatial/nothing",
    "cnn/nothing",
)
IMAGES = {"train": (15_000, 41_000_000), "validation": (1_500, 43_000_000)}  # how many, and their first seed
TRAINING = EncoderTraining(
    frames=IMAGES["train"][0], updates=600, batch=126, learning_rate=1e-3, first_frames=IMAGES["train"][0]
)
PROBED = 6_000  # images that the probes learn from
PROBE_STEPS = 1_500
IMITATION_STEPS = 3_000
EPISODES, EPISODE_SEEDS = 40, BENCHMARKS.first + 2_000_000
MARKS = ("<!-- benchmarks/representations.py begins -->", "<!-- benchmarks/representations.py ends -->")


@dataclass(frozen=True)
class Cell:
    """One encoder, its objectives, and a seed."""

    name: str
    seed: int

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name.replace('/', '_')}_{self.seed}.json"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rlfp bench representations", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the cells to run, for example cnn/vae")
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0, 1, 2])
    parser.add_argument("--success", action="store_true", help="also imitate and play")
    parser.add_argument("--minutes", type=duration, default=float("inf"))
    add_result(parser, "--folder", folder=True, default=Path("runs/representations"))
    add_result(parser, "--json")
    add_result(parser, "--document", page=MARKS, help="a page between whose marks the table is put")
    options = parse_benchmark(parser, argv)
    wanted = [name for name in CELLS if any(name.startswith(beginning) for beginning in options.only)]
    if not wanted:
        parser.error(f"--only {' '.join(options.only)}: no cell begins so; there are: {', '.join(CELLS)}")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    for seed in options.seeds:
        for name in wanted:
            if time.monotonic() < until:
                run(Cell(name, seed), options.folder, options.success)
    rows = table(options.folder, options.seeds)
    print(rows)
    if options.json:
        write_json(options.json, results(options.folder, options.seeds))
    if options.document:
        put_between(options.document, *MARKS, rows)
    return 0


# --- one cell -------------------------------------------------------------------------------------------------------


def run(cell: Cell, folder: Path, success: bool) -> None:
    """Train, probe and play, unless the results exist."""
    file = cell.file(folder)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if "mlp_mm" in found and (not success or "success" in found):
        return
    print(f"{cell.name}, seed {cell.seed}", flush=True)
    began = time.process_time()
    encoder = learnt(cell, folder)
    if "mlp_mm" not in found:
        minutes = (time.process_time() - began) / 60
        found = {"cell": cell.name, "seed": cell.seed, "minutes": round(minutes, 2)} | probe(encoder, cell, folder)
        write_json(file, found)
        print(f"  {found}", flush=True)
    if success:
        found["success"] = play(encoder, cell, folder)
        write_json(file, found)
        print(f"  success {found['success']}", flush=True)


def source(profile: str) -> FrameSource:
    """The images of a profile; the same for every cell."""
    count, seed = IMAGES[profile]
    return FrameSource(load_cell(TASK, "panda", profile), seed, count, sequences=True, teacher=True)


def render_images(profile: str, folder: Path) -> Frames:
    """Rendered once, kept, and gone on with where a run was stopped."""
    with Frames(source(profile), folder / profile) as frames:
        if frames.available < frames.source.count:
            print(f"  rendering {frames.source.count} images under {profile}", flush=True)
            frames.wait_for(frames.source.count)
    return frames


def learnt(cell: Cell, folder: Path) -> Encoder:
    """The cell's encoder, frozen."""
    render_images("train", folder)
    kind, representation = cell.name.split("/")
    shared = source("train")
    if representation == NOTHING:
        torch.manual_seed(cell.seed)
        encoder = EncoderChoice(kind).build(shared.camera)
        images = np.load(folder / "train" / "images.npy", mmap_mode="r")[:512]
        encoder.see(torch.from_numpy(images.copy()))  # its statistics
    else:
        encoder, _ = train_encoder(
            replace(shared, seed=cell.seed),
            folder / cell.file(folder).stem,
            TRAINING,
            EncoderChoice(kind),
            show,
            representation,
            folder / "train",
        )
    return encoder.eval().requires_grad_(False)


def show(done: int, text: str, **figures: float) -> None:
    """Training's progress."""
    if done % 100 == 0:
        print(f"  {done}/{TRAINING.updates} {text}", flush=True)


def probe(encoder: Encoder, cell: Cell, folder: Path) -> dict[str, float]:
    """Median errors of the object's position, mm, read from the features by a linear and by a small network."""
    train, validation = render_images("train", folder), render_images("validation", folder)
    held_out = held_out_count(train.source.count)
    parts = [(train, slice(0, PROBED)), (train, slice(-held_out, None)), (validation, slice(None))]
    codes = [features_of(encoder, frames.images[part]).flatten(1) for frames, part in parts]
    places = [torch.from_numpy(frames.positions[part].copy()) for frames, part in parts]
    scale = RunningNormaliser(codes[0].shape[1])
    scale.observe(codes[0])
    codes = [scale(code) for code in codes]

    def errors(predicted: list[Tensor]) -> tuple[float, float]:
        train_mm, validation_mm = (
            round(1e3 * (one - other).norm(dim=1).median().item(), 2)
            for one, other in zip(predicted, places[1:], strict=True)
        )
        return train_mm, validation_mm

    designs = [torch.cat([code, torch.ones(len(code), 1)], dim=1).double() for code in codes]
    ridge = designs[0].T @ designs[0] + torch.eye(designs[0].shape[1]).double()
    weights = torch.linalg.solve(ridge, designs[0].T @ places[0].double())
    linear = errors([(design @ weights).float() for design in designs[1:]])
    torch.manual_seed(cell.seed)
    network = small_network(codes[0].shape[1], 3)
    fit(network, codes[0], (places[0] - places[0].mean(dim=0)) / 0.1, PROBE_STEPS)
    with torch.no_grad():
        mlp = errors([0.1 * network(code) + places[0].mean(dim=0) for code in codes[1:]])
    return {"linear_mm": linear[0], "linear_validation_mm": linear[1], "mlp_mm": mlp[0], "mlp_validation_mm": mlp[1]}


def small_network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def fit(network: nn.Module, inputs: Tensor, wanted: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picks = torch.randint(0, len(inputs), (256,))
        loss = functional.smooth_l1_loss(network(inputs[picks]), wanted[picks], beta=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def play(encoder: Encoder, cell: Cell, folder: Path) -> dict[str, float]:
    """Share of episodes won by imitation of the teacher on frozen features and joints, under each profile."""
    train = render_images("train", folder)
    known = train.source.count - held_out_count(train.source.count)
    features = features_of(encoder, train.images[:known]).flatten(1)
    inputs = torch.cat([features, torch.from_numpy(train.proprioception[:known].copy())], dim=1)
    scale = RunningNormaliser(inputs.shape[1])
    scale.observe(inputs)
    torch.manual_seed(cell.seed)
    actor = small_network(inputs.shape[1], train.teacher.shape[1])
    fit(actor, scale(inputs), torch.from_numpy(train.teacher[:known].copy()), IMITATION_STEPS)
    return {profile: success(encoder, scale, actor, profile) for profile in IMAGES}


@torch.no_grad()
def success(encoder: Encoder, scale: RunningNormaliser, actor: nn.Module, profile: str) -> float:
    env = ManipulationEnv(
        TASK,
        profile=profile,
        observation="features",
        observed=ObservationContract(feature_stack=1),
        perceiver=lambda image: encoder(torch.from_numpy(image[None]))[0][0].numpy(),
        seeds=CountedSeeds(EPISODE_SEEDS),
    )
    won = 0
    for _ in range(EPISODES):
        observation, info = env.reset()
        ended = False
        while not ended:
            inputs = np.concatenate([observation["features"].ravel(), observation["proprioception"]])
            action = actor(scale(torch.from_numpy(inputs)[None]))[0].clamp(-1, 1)
            observation, _, terminated, truncated, info = env.step(action.numpy())
            ended = terminated or truncated
        won += bool(info["success"])
    env.close()
    return won / EPISODES


# --- the table ------------------------------------------------------------------------------------------------------


def results(folder: Path, seeds: list[int]) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each cell."""
    files = {name: [Cell(name, seed).file(folder) for seed in seeds] for name in CELLS}
    return {name: [json.loads(file.read_text()) for file in there if file.exists()] for name, there in files.items()}


def table(folder: Path, seeds: list[int]) -> str:
    """Interquartile mean over seeds and its 95 % bootstrap interval."""
    columns = {
        "linear, mm": lambda cell: cell["linear_mm"],
        "network, mm": lambda cell: cell["mlp_mm"],
        "network, validation, mm": lambda cell: cell["mlp_validation_mm"],
        "lost in validation, mm": lambda cell: cell["mlp_validation_mm"] - cell["mlp_mm"],
        "success": lambda cell: cell["success"]["train"],
        "success, validation": lambda cell: cell["success"]["validation"],
        "CPU minutes": lambda cell: cell["minutes"],
    }
    lines = ["| encoder | learns from | seeds | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for name, cells in results(folder, seeds).items():
        texts = []
        for column, figure in columns.items():
            values = [figure(cell) for cell in cells if not column.startswith("success") or "success" in cell]
            texts.append(figure_text(values, 2 if "success" in column or "minutes" in column else 1))
        kind, representation = name.split("/")
        lines.append(f"| {kind} | {representation} | {len(cells)} of {len(seeds)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
