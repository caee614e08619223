"""What may stand before a backbone: a learned warp, or several views of a face through the same network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.devices import single_precision

# Boxes as shares of the picture: left, top, right, bottom, for faces that are cropped as UTKFace's are.
VIEWS: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "parts": {"whole": (0, 0, 1, 1), "eyes": (0.15, 0.25, 0.85, 0.55), "nose": (0.3, 0.35, 0.7, 0.7),
              "mouth": (0.25, 0.62, 0.75, 0.9)},
    "nested": {"whole": (0, 0, 1, 1), "face": (0.1, 0.1, 0.9, 0.9), "inner": (0.2, 0.2, 0.8, 0.8)},
}


class SpatialTransformer(nn.Module):
    """An affine warp that a small network chooses for each picture, before the backbone (Jaderberg et al., NIPS 2015).

    arXiv 1506.02025. The network sees the picture at 32 px; it begins with no warp at all.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        last = nn.Linear(32, 6)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.locate = nn.Sequential(
            nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 5 * 5, 32), nn.ReLU(), last)

    def warp(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Warped pictures [B, 3, H, W], and the matrices [B, 2, 3] from their places to those in `images`, -1 to 1."""
        with single_precision(images.device):
            small = F.interpolate(images.float(), (32, 32), mode="bilinear", antialias=True)
            matrices = self.locate(small).view(-1, 2, 3)
            grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
            return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False), matrices

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, C] of the warped pictures."""
        return self.backbone(self.warp(images)[0].contiguous(memory_format=torch.channels_last))


class Views(nn.Module):
    """Several views of a face through one shared backbone, their features side by side: [B, 3, H, W] to [B, V * C].

    "nested": three nested crops, as in C3AE (Zhang et al., CVPR 2019, arXiv 1904.05059); "parts": the whole face, eyes,
    nose and mouth. Each view is enlarged to the size of the picture, so V views cost V times as much.
    """

    def __init__(self, backbone: nn.Module, kind: str) -> None:
        super().__init__()
        self.backbone, self.boxes = backbone, list(VIEWS[kind].values())

    def crops(self, images: Tensor) -> list[Tensor]:
        """The views, each [B, 3, H, W]."""
        height, width = images.shape[2:]
        cut = [images[:, :, round(top * height):round(bottom * height), round(left * width):round(right * width)]
               for left, top, right, bottom in self.boxes]
        return [F.interpolate(view, (height, width), mode="bilinear") for view in cut]

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, V * C]; batch normalisation sees all views of a batch together."""
        together = torch.cat(self.crops(images)).contiguous(memory_format=torch.channels_last)
        features = self.backbone(together).unflatten(0, (len(self.boxes), images.shape[0]))
        return features.transpose(0, 1).flatten(1)


def add_front(kind: str | None, backbone: nn.Module, width: int) -> tuple[nn.Module, int]:
    """`backbone` behind the front of that kind, and the width of its features."""
    if kind == "spatial_transformer":
        return SpatialTransformer(backbone), width
    return (backbone, width) if kind is None else (Views(backbone, kind), width * len(VIEWS[kind]))
