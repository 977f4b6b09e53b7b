"""Lists the rows for a GPU, most important first, as a run may end early."""

from __future__ import annotations

from dataclasses import replace

from bench.case import PASSES, Case, Row

RESNET = "He et al. 2016, ResNet-50"
CASES = [
    Case("resnet50/conv2_3x3", "dense 3x3", RESNET, (56, 56), 64, (3, 3), 64, padding=1),
    Case("resnet50/conv4_3x3", "dense 3x3", RESNET, (14, 14), 256, (3, 3), 256, padding=1),
    Case("efficientnet/depthwise_3x3", "depthwise", "Tan and Le 2019, stage 4", (28, 28), 240,
         (3, 3), 240, padding=1, groups=240),
    Case("resnet50/conv3_1x1", "1x1", RESNET, (28, 28), 512, (1, 1), 128),
    Case("resnet50/conv1_7x7_s2", "other dense", RESNET, (224, 224), 3, (7, 7), 64, stride=2,
         padding=3),
    Case("vgg16/conv3_2", "dense 3x3", "Simonyan and Zisserman 2015, VGG-16", (56, 56), 256,
         (3, 3), 256, padding=1),
    Case("resnet50/conv4_3x3_s2", "other dense", RESNET, (28, 28), 256, (3, 3), 256, stride=2,
         padding=1),
    Case("unet3d/conv2", "3-D", "Cicek et al. 2016, 3D U-Net", (32, 32, 32), 64, (3, 3, 3), 64,
         padding=1),
    Case("wav2vec2/conv2", "1-D", "Baevski et al. 2020", (8000,), 512, (3,), 512, stride=2),
    Case("convnext/depthwise_7x7", "depthwise", "Liu et al. 2022", (56, 56), 96, (7, 7), 96,
         padding=3, groups=96),
    Case("efficientnet/depthwise_5x5_s2", "depthwise", "Tan and Le 2019, stage 5", (28, 28), 480,
         (5, 5), 480, stride=2, padding=2, groups=480),
    Case("vgg16/conv1_1", "few channels", "Simonyan and Zisserman 2015, VGG-16", (224, 224), 3,
         (3, 3), 64, padding=1),
    Case("conformer/depthwise_31", "1-D", "Gulati et al. 2020", (1000,), 512, (31,), 512,
         padding=15, groups=512),
    Case("deeplab/aspp_d12", "other dense", "Chen et al. 2017", (33, 33), 512, (3, 3), 256,
         padding=12, dilation=12),
    Case("replknet/depthwise_31x31", "large filters", "Ding et al. 2022", (28, 28), 128, (31, 31),
         128, padding=15, groups=128),
    Case("image/63x63", "large filters", "a blur of one channel", (512, 512), 1, (63, 63), 1,
         padding=31),
    Case("audio/8191", "large filters", "a room's response", (160_000,), 1, (8191,), 1,
         padding=4095),
    Case("resnext50/conv3", "other dense", "Xie et al. 2017", (28, 28), 256, (3, 3), 256,
         padding=1, groups=32),
]  # fmt: skip
BATCH = {"3-D": 4, "1-D": 8, "large filters": 4}
LARGE_BATCH = 32
DTYPES = ("float32", "float16", "complex64", "bfloat16", "float64")
COMPLEX = ("resnet50/conv2_3x3", "efficientnet/depthwise_3x3", "image/63x63", "audio/8191")

SMALL = [
    Case("small/3x3", "dense 3x3", "none", (9, 8), 8, (3, 3), 8, padding=1),
    Case("small/depthwise", "depthwise", "none", (8, 8), 8, (3, 3), 8, padding=1, groups=8),
]


def rows(small: bool) -> list[Row]:
    """List every case in each pass and dtype, most important first."""
    cases, dtypes = (SMALL, ("float32",)) if small else (CASES, DTYPES)
    return [
        Row(replace(case, dtype=dtype), 2 if small else BATCH.get(case.group, LARGE_BATCH), pass_)
        for dtype in dtypes
        for case in cases
        if dtype != "complex64" or case.name in COMPLEX
        for pass_ in PASSES
    ]


def row_key(row: Row) -> str:
    """Return the row's unique name."""
    return f"{row.name} {row.case.dtype}"
