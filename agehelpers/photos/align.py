"""From a box around a face to the crop that the training pictures have: an aligner learned from these themselves.

Training pictures are aligned: eyes and mouth of all of them are about where the others' are. A small network that sees
such a crop after a random turn, zoom and shift can learn to undo it, without landmarks and without weights of others,
and so learns the convention of any set of crops. At prediction it looks at a detector's box and says where the crop
that the age network knows lies in it. Places are those of `placement`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers import paths
from agehelpers.config import Config
from agehelpers.data.faces import prepare_faces
from agehelpers.methods.networks import convolution_blocks
from agehelpers.photos.placement import SIDE
from agehelpers.training.checkpoints import load_checkpoint, save_checkpoint

POINTS = (0j, -0.5 - 0.5j, 0.5 - 0.5j, -0.5 + 0.5j, 0.5 + 0.5j)  # whose mean distance is the loss
TURN, ZOOM, SHIFT = 40.0, (0.62, 1.7), 0.28  # degrees, factor, fraction of the half side: what it learns to undo


class Aligner(nn.Sequential):
    """Pictures [B, 3, 56, 56], 0 to 1, to placements [B, 2, 2] of the aligned crop: centre, half; real, imaginary.

    Four blocks of two convolutions; 0.4 million weights. It begins with the whole picture.
    """

    def __init__(self) -> None:
        blocks = convolution_blocks((24, 48, 96, 128), 2)
        last = nn.Linear(128 * 9, 4)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0, 1, 0]))
        super().__init__(*blocks, nn.Flatten(), last, nn.Unflatten(1, (2, 2)))


def distance(found: Tensor, true: Tensor) -> Tensor:
    """Mean distance of the five `POINTS` under two placements [B, 2, 2], [B], in half sides of the aligned crop."""
    points = torch.tensor(POINTS, dtype=torch.complex64, device=found.device)
    (centre, half), (true_centre, true_half) = (torch.view_as_complex(placed.float().contiguous()).unbind(1)
                                                for placed in (found, true))
    away = (centre - true_centre)[:, None] + (half - true_half)[:, None] * points
    return (away.abs() / true_half.abs()[:, None]).mean(1)


def scatter(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random views of aligned crops [B, 3, S, S] (0 to 1): [B, 3, 56, 56], and where in each the crop lies [B, 2, 2].

    Around the crop is its repeated edge, one colour, or another crop of the batch, blurred.
    """
    n = len(pixels)
    angle, zoom, x, y, kind = torch.rand(5, n, generator=generator)
    low, high = np.log(ZOOM)
    turn = torch.polar((low + (high - low) * zoom).exp(), (2 * angle - 1) * np.pi * TURN / 180)  # of the view
    shift = SHIFT * torch.complex(2 * x - 1, 2 * y - 1)
    matrix = torch.stack([torch.stack([turn.real, -turn.imag, shift.real], 1),
                          torch.stack([turn.imag, turn.real, shift.imag], 1)], 1)
    grid = F.affine_grid(matrix, [n, 3, SIDE, SIDE], align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(3) <= 1)[:, None]
    behind = F.interpolate(F.avg_pool2d(pixels.roll(1, 0), pixels.shape[2] // 8), (SIDE, SIDE), mode="bilinear")
    plain = torch.rand(n, 3, 1, 1, generator=generator).expand_as(views)
    kind = kind[:, None, None, None]
    views = torch.where(inside | (kind < 0.4), views, torch.where(kind < 0.7, plain, behind))
    light = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator)
    return (views * light).clamp(0, 1), torch.view_as_real(torch.stack([-shift / turn, 1 / turn], 1))


def train_aligner(pixels: np.ndarray, rows: np.ndarray, steps: int = 1500, batch: int = 64, seed: int = 0
                  ) -> tuple[Aligner, float]:
    """An aligner for the crops `rows` of `pixels`, uint8 [N, S, S, 3], and its error over the last tenth of the steps.

    The error is that of `distance`, in half sides of the crop. Six minutes on one core.
    """
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Aligner().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(3, steps), pct_start=0.2)
    errors = []
    for _ in range(steps):
        chosen = np.sort(rng.choice(rows, batch))
        crops = torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 255
        views, true = scatter(crops, generator)
        loss = distance(model(views.contiguous(memory_format=torch.channels_last)), true).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(loss.item())
    return model.eval(), float(np.mean(errors[-max(1, steps // 10):]))


def make_aligner(config: Config, folder: Path) -> Path:
    """aligner.safetensors of the training pictures of `config` in `folder`, unless it is there; its path.

    A set of fewer than 2,000 pictures gets a fifth of the steps.
    """
    file = folder / "aligner.safetensors"
    if not file.exists():
        faces = prepare_faces(config, ("train",))
        rows = faces.part("train")["row"].to_numpy()
        pixels = faces.pixels if isinstance(faces.pixels, np.ndarray) else faces.pixels.cpu().numpy()
        model, error = train_aligner(pixels, rows, 1500 if len(rows) >= 2000 else 300, seed=config.seed)
        save_aligner(file, model, {"pictures": len(rows), "error": round(error, 4), "split": faces.split})
    return file


@torch.inference_mode()
def look(model: nn.Module, views: np.ndarray) -> np.ndarray:
    """`placement.Look` by a network."""
    return model(torch.from_numpy(views)).numpy()


def save_aligner(file: Path, model: nn.Module, facts: dict[str, object]) -> None:
    """Weights in half precision, and `facts` of how they were made."""
    save_checkpoint(file, {key: value.half() if value.is_floating_point() else value
                           for key, value in model.state_dict().items()}, {"aligner": facts})


def load_aligner(file: Path) -> Aligner:
    """What `save_aligner` wrote; FileNotFoundError, ValueError name the file."""
    tensors, state = load_checkpoint(file)
    if "aligner" not in state:
        raise ValueError(f"{file}: not the weights of an aligner")
    model = Aligner()
    with paths.reading(file, "make another by the training's command with --aligner --resume"):
        model.load_state_dict(tensors)
    return model.eval()
