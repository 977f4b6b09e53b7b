"""Dense layers of image classifiers: ResNet, VGG, AlexNet, Inception, ResNeXt, ViT, ConvNeXt."""

from bench.case import Case

RESNET = "He et al. 2016, ResNet-50 (stride in the 3x3, 'v1.5')"
VGG = "Simonyan & Zisserman 2015, VGG-16"
ALEXNET = "Krizhevsky et al. 2012, AlexNet"
INCEPTION = "Szegedy et al. 2016, Inception-v3"
RESNEXT = "Xie et al. 2017, ResNeXt-50 32x4d"
CONVNEXT = "Liu et al. 2022, ConvNeXt-T"

DENSE = "dense 3x3"
OTHER = "other dense"

CASES = [
    # every distinct 3x3 layer of ResNet-50
    Case("resnet50/conv2_3x3", DENSE, RESNET, (56, 56), 64, (3, 3), 64, padding=1, batches=(1, 8)),
    Case(
        "resnet50/conv3_3x3", DENSE, RESNET, (28, 28), 128, (3, 3), 128, padding=1, batches=(1, 8)
    ),
    Case(
        "resnet50/conv4_3x3",
        DENSE,
        RESNET,
        (14, 14),
        256,
        (3, 3),
        256,
        padding=1,
        batches=(1, 8),
        smoke=True,
    ),
    Case("resnet50/conv5_3x3", DENSE, RESNET, (7, 7), 512, (3, 3), 512, padding=1, batches=(1, 8)),
    Case("resnet50/conv3_3x3_s2", OTHER, RESNET, (56, 56), 128, (3, 3), 128, stride=2, padding=1),
    Case("resnet50/conv4_3x3_s2", OTHER, RESNET, (28, 28), 256, (3, 3), 256, stride=2, padding=1),
    Case("resnet50/conv5_3x3_s2", OTHER, RESNET, (14, 14), 512, (3, 3), 512, stride=2, padding=1),
    Case(
        "resnet50/conv1_7x7_s2",
        OTHER,
        RESNET,
        (224, 224),
        3,
        (7, 7),
        64,
        stride=2,
        padding=3,
        batches=(1, 8),
    ),
    # every distinct layer of VGG-16
    Case("vgg16/conv1_1", DENSE, VGG, (224, 224), 3, (3, 3), 64, padding=1),
    Case("vgg16/conv1_2", DENSE, VGG, (224, 224), 64, (3, 3), 64, padding=1),
    Case("vgg16/conv2_1", DENSE, VGG, (112, 112), 64, (3, 3), 128, padding=1),
    Case("vgg16/conv2_2", DENSE, VGG, (112, 112), 128, (3, 3), 128, padding=1),
    Case("vgg16/conv3_1", DENSE, VGG, (56, 56), 128, (3, 3), 256, padding=1),
    Case("vgg16/conv3_2", DENSE, VGG, (56, 56), 256, (3, 3), 256, padding=1),
    Case("vgg16/conv4_1", DENSE, VGG, (28, 28), 256, (3, 3), 512, padding=1),
    Case("vgg16/conv4_2", DENSE, VGG, (28, 28), 512, (3, 3), 512, padding=1),
    Case("vgg16/conv5_1", DENSE, VGG, (14, 14), 512, (3, 3), 512, padding=1, batches=(1, 8)),
    # first layers, rectangles, groups, patches
    Case("alexnet/conv1", OTHER, ALEXNET, (227, 227), 3, (11, 11), 96, stride=4),
    Case("alexnet/conv2", OTHER, ALEXNET, (27, 27), 96, (5, 5), 256, padding=2, groups=2),
    Case("inception3/stem_3x3_s2", OTHER, INCEPTION, (299, 299), 3, (3, 3), 32, stride=2),
    Case("inception3/mixed5_5x5", OTHER, INCEPTION, (35, 35), 48, (5, 5), 64, padding=2),
    Case("inception3/mixed6_1x7", OTHER, INCEPTION, (17, 17), 192, (1, 7), 192, padding=(0, 3)),
    Case("inception3/mixed6_7x1", OTHER, INCEPTION, (17, 17), 192, (7, 1), 192, padding=(3, 0)),
    Case("resnext50/conv2", OTHER, RESNEXT, (56, 56), 128, (3, 3), 128, padding=1, groups=32),
    Case("resnext50/conv3", OTHER, RESNEXT, (28, 28), 256, (3, 3), 256, padding=1, groups=32),
    Case(
        "resnext50/conv4",
        OTHER,
        RESNEXT,
        (14, 14),
        512,
        (3, 3),
        512,
        padding=1,
        groups=32,
        smoke=True,
    ),
    Case("resnext50/conv5", OTHER, RESNEXT, (7, 7), 1024, (3, 3), 1024, padding=1, groups=32),
    Case("convnext/stem_4x4_s4", OTHER, CONVNEXT, (224, 224), 3, (4, 4), 96, stride=4),
    Case("convnext/downsample_2x2_s2", OTHER, CONVNEXT, (56, 56), 96, (2, 2), 192, stride=2),
    Case(
        "vit_b16/patches",
        OTHER,
        "Dosovitskiy et al. 2021, ViT-B/16, patch embedding",
        (224, 224),
        3,
        (16, 16),
        768,
        stride=16,
        batches=(1, 8),
    ),
]
