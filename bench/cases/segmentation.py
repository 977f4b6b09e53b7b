"""Layers of networks that answer with an image: U-Net (valid) and DeepLab (dilated)."""

from bench.case import Case

UNET = "Ronneberger et al. 2015, U-Net, 572x572 input, valid convolutions"
DEEPLAB = "Chen et al. 2017, DeepLabv3, 513x513 input, output stride 16"

CASES = [
    Case("unet/encoder1_2", "dense 3x3", UNET, (570, 570), 64, (3, 3), 64, batches=(1,)),
    Case("unet/encoder3_2", "dense 3x3", UNET, (138, 138), 256, (3, 3), 256, batches=(1,)),
    Case("unet/decoder3_1", "dense 3x3", UNET, (200, 200), 256, (3, 3), 128, batches=(1,)),
    Case(
        "deeplab3/block4_rate2",
        "other dense",
        DEEPLAB,
        (33, 33),
        512,
        (3, 3),
        512,
        padding=2,
        dilation=2,
        batches=(1, 8),
    ),
    Case(
        "deeplab3/aspp_rate6",
        "other dense",
        DEEPLAB,
        (33, 33),
        2048,
        (3, 3),
        256,
        padding=6,
        dilation=6,
        batches=(1,),
    ),
    Case(
        "deeplab3/aspp_rate12",
        "other dense",
        DEEPLAB,
        (33, 33),
        2048,
        (3, 3),
        256,
        padding=12,
        dilation=12,
        batches=(1,),
    ),
    Case(
        "deeplab3/aspp_rate18",
        "other dense",
        DEEPLAB,
        (33, 33),
        2048,
        (3, 3),
        256,
        padding=18,
        dilation=18,
        batches=(1,),
    ),
]
