"""Other arithmetic: float64 stencils and layers, complex MRI kernels, integers."""

from bench.case import Case

STENCIL = "finite differences for a partial differential equation"
SPIRIT = "Lustig & Pauly 2010, SPIRiT: every coil from all coils, in k-space"
GROUP = "float64, complex, integers"
LINEAR = ("forward", "input_grad")

CASES = [
    Case("stencil/laplace_2d", GROUP, STENCIL, (1024, 1024), 1, (3, 3), 1, padding=1,
         dtype="float64", batches=(1,), passes=LINEAR),
    Case("stencil/laplace_3d", GROUP, STENCIL, (128, 128, 128), 1, (3, 3, 3), 1, padding=1,
         dtype="float64", batches=(1,), passes=LINEAR),
    Case("seismic/ricker_1d", GROUP, "Ricker wavelet over traces of 4 s at 1 kHz", (4000,), 1,
         (101,), 1, padding=50, dtype="float64", batches=(8,)),
    Case("float64/resnet_conv3", GROUP, "He et al. 2016, ResNet-50 conv3 in float64", (28, 28),
         128, (3, 3), 128, padding=1, dtype="float64"),
    Case("float64/resnet_conv2", GROUP, "He et al. 2016, ResNet-50 conv2 in float64", (56, 56), 64,
         (3, 3), 64, padding=1, dtype="float64"),
    Case("float64/volume_32", GROUP, "3-D surrogate model in float64", (32, 32, 32), 32, (3, 3, 3),
         32, padding=1, dtype="float64", batches=(1,)),
    Case("float64/depthwise_5x5", GROUP, "Tan & Le 2019, EfficientNet-B0 layer in float64",
         (28, 28), 240, (5, 5), 240, padding=2, groups=240, dtype="float64"),
    Case("mri/spirit_5x5_8coils", GROUP, SPIRIT, (256, 256), 8, (5, 5), 8, padding=2,
         dtype="complex64", batches=(1,)),
    Case("mri/spirit_7x7_12coils", GROUP, SPIRIT, (160, 160), 12, (7, 7), 12, padding=3,
         dtype="complex64", batches=(1,)),
    Case("mri/espirit_6x6_128", GROUP, "Uecker et al. 2014, ESPIRiT, complex128", (96, 96), 8,
         (6, 6), 8, dtype="complex128", batches=(1,)),
    Case("mri/unet_complex_3d", GROUP, "Cole et al. 2021, complex network, volumes", (24, 48, 48),
         16, (3, 3, 3), 16, padding=1, dtype="complex64", batches=(1,)),
    Case("int8/resnet_conv2", GROUP, "quantised ResNet-50 conv2, int32 sums", (56, 56), 64, (3, 3),
         64, padding=1, dtype="int8", passes=("forward",)),
    Case("int8/resnet_conv4_1x1", GROUP, "quantised ResNet-50 conv4, int32 sums", (14, 14), 1024,
         (1, 1), 256, dtype="int8", passes=("forward",), smoke=True),
    Case("int32/counts_5x5", GROUP, "sums over neighbourhoods of a count map", (256, 256), 4,
         (5, 5), 4, padding=2, dtype="int32", batches=(1,), passes=("forward",)),
    Case("uint8/image_5x5", GROUP, "8-bit full-HD plane under a float32 filter", (1080, 1920), 1,
         (5, 5), 1, padding=2, dtype="uint8", filter_dtype="float32", batches=(1,),
         passes=("forward",)),
]
