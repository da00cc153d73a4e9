"""ResNets for small images (He et al., 2016, section 4.2), with OpenLTH's names and projection shortcuts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from prunecli.initializations import kaiming_normal_
from prunecli.models.parameters import fitting
from prunecli.models.width import Width, scaled
from prunecli.registry import models
from prunecli.task import Task


@models
def cifar_resnet_8(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-8: three segments of 1 block with 16, 32 and 64 channels; for a quick look at small images."""
    return _cifar_resnet(task, 8, width)


@models
def cifar_resnet_20(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-20: three segments of 3 blocks with 16, 32 and 64 channels."""
    return _cifar_resnet(task, 20, width)


@models
def cifar_resnet_32(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-32: three segments of 5 blocks with 16, 32 and 64 channels; GraSP's has width 2."""
    return _cifar_resnet(task, 32, width)


@models
def cifar_resnet_44(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-44: three segments of 7 blocks with 16, 32 and 64 channels."""
    return _cifar_resnet(task, 44, width)


@models
def cifar_resnet_56(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-56: three segments of 9 blocks with 16, 32 and 64 channels."""
    return _cifar_resnet(task, 56, width)


@models
def cifar_resnet_110(task: Task, *, width: Width = 1.0) -> nn.Module:
    """ResNet-110: three segments of 18 blocks with 16, 32 and 64 channels."""
    return _cifar_resnet(task, 110, width)


def _cifar_resnet(task: Task, depth: int, width: float) -> nn.Module:
    blocks = (depth - 2) // 6
    model = fitting(f"cifar_resnet_{depth}", lambda: _ResNet(task, blocks, base=scaled(16, width)))
    kaiming_normal_(model)
    return model


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            # The paper's option B; its CIFAR networks had option A, without weights.
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, after, H / stride, W / stride) of features (B, before, H, W)."""
        values = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(values)) + self.shortcut(images))


class _ResNet(nn.Module):
    def __init__(self, task: Task, blocks: int, base: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(task.shape[0], base, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(base)
        segments = [(base, base, 1), (base, 2 * base, 2), (2 * base, 4 * base, 2)]
        self.blocks = nn.Sequential(
            *(
                block
                for before, after, stride in segments
                for block in (
                    _Block(before, after, stride),
                    *(_Block(after, after, 1) for _ in range(1, blocks)),
                )
            )
        )
        self.fc = nn.Linear(4 * base, task.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        values = self.blocks(functional.relu(self.bn(self.conv(images))))
        # A mean, since adaptive pooling's gradient is not deterministic on CUDA.
        logits: Tensor = self.fc(values.mean((2, 3)))
        return logits
