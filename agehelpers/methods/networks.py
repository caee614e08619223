"""Networks of our own, and what timm's are wrapped in."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agehelpers.data.augmentation import MEAN, STD
from agehelpers.devices import single_precision


def convolution_blocks(widths: Sequence[int], convolutions: int) -> list[nn.Module]:
    """From pictures [B, 3, H, W] to [B, widths[-1], h, w]: a block for each width, which halves the sides.

    A block is so many times a convolution 3 x 3, batch normalisation and ReLU, then maximum pooling.
    """
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        for _ in range(convolutions):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers


def plain_network(widths: Sequence[int], convolutions: int) -> nn.Sequential:
    """`convolution_blocks` and the mean over what is left of the picture: [B, 3, H, W] -> [B, widths[-1]]."""
    return nn.Sequential(*convolution_blocks(widths, convolutions), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class SSRNet(nn.Module):
    """Soft stagewise regression network (Yang et al., IJCAI 2018): [B, 3, H, W] -> [B, 21] for the head `stagewise`.

    Two streams of four convolutions, one with ReLU and average pooling, one with tanh and maximum pooling, are compared
    at three depths. Each depth gives a stage its three probabilities p (by ReLU; they need not sum to 1), three shifts
    of bins eta and its stretch Delta (by tanh), as in the authors' code, lambda = 1. Pictures are resized to 64 px, for
    which it is made; 40.9 thousand parameters.
    """

    def __init__(self) -> None:
        super().__init__()

        def stream(width: int, activation: type[nn.Module]) -> nn.ModuleList:
            widths = ((3, width), *[(width, width)] * 3)
            return nn.ModuleList(nn.Sequential(nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), activation())
                                 for before, after in widths)

        self.streams = nn.ModuleList([stream(32, nn.ReLU), stream(16, nn.Tanh)])
        self.pools = (nn.AvgPool2d, nn.MaxPool2d)
        # depth of each stage (coarse to fine), the pooling before its fusion, and the cells that are left at 64 px
        self.depths = ((3, 1, 16), (1, 4, 9), (0, 8, 9))
        self.reduce = nn.ModuleList(nn.ModuleList(nn.Conv2d(width, 10, 1) for _ in self.depths) for width in (32, 16))
        self.mix = nn.ModuleList(nn.ModuleList(
            nn.Sequential(nn.Dropout(0.2), nn.Linear(10 * cells, 3), nn.ReLU()) for *_, cells in self.depths)
            for _ in range(2))
        self.stretch = nn.ModuleList(nn.Sequential(nn.Linear(10 * cells, 1), nn.Tanh()) for *_, cells in self.depths)
        self.fuse = nn.ModuleList(nn.Sequential(nn.Linear(3, 6), nn.ReLU()) for _ in self.depths)
        self.probabilities = nn.ModuleList(nn.Sequential(nn.Linear(6, 3), nn.ReLU()) for _ in self.depths)
        self.shifts = nn.ModuleList(nn.Sequential(nn.Linear(6, 3), nn.Tanh()) for _ in self.depths)

    def forward(self, images: Tensor) -> Tensor:
        """Of each of three stages three probabilities, three shifts and a stretch, [B, 21]."""
        if images.shape[2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        sides: list[Any] = []
        both: Any = zip(self.streams, self.pools, self.reduce, self.mix, strict=True)
        for layers, pool, reduce, mix in both:
            x, levels = images, []
            for number, layer in enumerate(layers):
                x = layer(x) if number == 3 else pool(2)(layer(x))
                levels.append(x)
            cut = [pool(size)(one(levels[depth]).relu()).flatten(1)
                   for one, (depth, size, _) in zip(reduce, self.depths, strict=True)]
            sides.append((cut, [one(values) for one, values in zip(mix, cut, strict=True)]))
        outputs = []
        with single_precision(images.device):  # these are the age: bf16 would round it
            for stage in range(3):
                (a, b), (mixed_a, mixed_b) = ([side[part][stage].float() for side in sides] for part in (0, 1))
                fused = self.fuse[stage](mixed_a * mixed_b)
                outputs += [self.probabilities[stage](fused), self.shifts[stage](fused), self.stretch[stage](a * b)]
        return torch.cat(outputs, 1)


def first_three_stages(resnet: nn.Module) -> nn.Module:
    """A ResNet without its classifier and its fourth stage, which at 64 px has 2 x 2 cells and most of the weights."""
    resnet.layer4, resnet.fc = nn.Identity(), nn.Identity()
    return resnet


class Renormalised(nn.Module):
    """A network of timm behind the normalisation that it was trained with: pictures come in ImageNet's (`MEAN`, `STD`).

    The two buffers are stored with the weights, so that a checkpoint predicts as it was trained.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        own_mean, own_std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
        usual_mean, usual_std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self.network = network
        self.register_buffer("scale", usual_std / own_std)
        self.register_buffer("offset", (usual_mean - own_mean) / own_std)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, C] of pictures [B, 3, H, W]."""
        return self.network(images * self.scale + self.offset)


# Name -> builder, and the network of torchvision that it changes (and whose weights it may have), or None.
OWN: dict[str, tuple[Callable[..., nn.Module], str | None]] = {
    "tiny": (partial(plain_network, (16, 32, 64, 64), 1), None),  # for the `ci` profile's drawn faces, seconds on a CPU
    "plain": (partial(plain_network, (32, 64, 128, 256), 2), None),  # 1.2 M weights
    "ssrnet": (SSRNet, None),
    "resnet14": (first_three_stages, "resnet18"),
    "resnet28": (first_three_stages, "resnet34"),
}
