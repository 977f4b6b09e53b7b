"""1x1 layers: the matrix products of ResNet, MobileNetV2 and ConvNeXt."""

from bench.case import Case

RESNET = "He et al. 2016, ResNet-50 (stride in the 3x3, 'v1.5')"
MOBILENET = "Sandler et al. 2018, MobileNetV2"
GROUP = "1x1"

CASES = [
    Case("resnet50/conv2_expand", GROUP, RESNET, (56, 56), 64, (1, 1), 256, batches=(1, 8)),
    Case("resnet50/conv2_reduce", GROUP, RESNET, (56, 56), 256, (1, 1), 64),
    Case("resnet50/conv3_reduce", GROUP, RESNET, (28, 28), 512, (1, 1), 128),
    Case(
        "resnet50/conv4_expand",
        GROUP,
        RESNET,
        (14, 14),
        256,
        (1, 1),
        1024,
        batches=(1, 8),
        smoke=True,
    ),
    Case("resnet50/conv5_reduce", GROUP, RESNET, (7, 7), 2048, (1, 1), 512, batches=(1, 8)),
    Case("resnet50/shortcut_s2", GROUP, RESNET, (56, 56), 256, (1, 1), 512, stride=2),
    Case("mobilenet2/expand_24", GROUP, MOBILENET, (56, 56), 24, (1, 1), 144),
    Case("mobilenet2/project_960", GROUP, MOBILENET, (7, 7), 960, (1, 1), 320),
    Case(
        "convnext/pointwise",
        GROUP,
        "Liu et al. 2022, ConvNeXt-T, stage 1",
        (56, 56),
        96,
        (1, 1),
        384,
    ),
]
