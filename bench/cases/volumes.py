"""3-D: video and medical volumes."""

from bench.case import Case

C3D = "Tran et al. 2015, C3D, 16 frames of 112x112"
UNET3D = "Cicek et al. 2016, 3-D U-Net, valid convolutions"
R2P1D = "Tran et al. 2018, R(2+1)D-18"
GROUP = "3-D"

CASES = [
    Case("c3d/conv1", GROUP, C3D, (16, 112, 112), 3, (3, 3, 3), 64, padding=1, batches=(1,)),
    Case("c3d/conv2", GROUP, C3D, (16, 56, 56), 64, (3, 3, 3), 128, padding=1, batches=(1,)),
    Case("c3d/conv3b", GROUP, C3D, (8, 28, 28), 256, (3, 3, 3), 256, padding=1, batches=(1,)),
    Case("c3d/conv5", GROUP, C3D, (2, 7, 7), 512, (3, 3, 3), 512, padding=1, batches=(1, 8)),
    Case("unet3d/encoder1_2", GROUP, UNET3D, (66, 66, 58), 32, (3, 3, 3), 64, batches=(1,)),
    Case("unet3d/encoder2_2", GROUP, UNET3D, (34, 34, 30), 64, (3, 3, 3), 128, batches=(1,)),
    Case(
        "vnet/left2_5x5x5",
        GROUP,
        "Milletari et al. 2016, V-Net",
        (32, 32, 32),
        32,
        (5, 5, 5),
        32,
        padding=2,
        batches=(1,),
    ),
    Case(
        "i3d/stem_7x7x7_s2",
        GROUP,
        "Carreira & Zisserman 2017, I3D",
        (16, 112, 112),
        3,
        (7, 7, 7),
        64,
        stride=2,
        padding=3,
        batches=(1,),
    ),
    Case(
        "r2plus1d/space_1x3x3",
        GROUP,
        R2P1D,
        (16, 56, 56),
        64,
        (1, 3, 3),
        144,
        padding=(0, 1, 1),
        batches=(1,),
    ),
    Case(
        "r2plus1d/time_3x1x1",
        GROUP,
        R2P1D,
        (16, 56, 56),
        144,
        (3, 1, 1),
        64,
        padding=(1, 0, 0),
        batches=(1,),
    ),
    Case(
        "x3d/depthwise",
        GROUP,
        "Feichtenhofer 2020, X3D-S, res2",
        (13, 40, 40),
        54,
        (3, 3, 3),
        54,
        padding=1,
        groups=54,
        batches=(1, 8),
        smoke=True,
    ),
]
