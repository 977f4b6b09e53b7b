"""One small filter per channel: mobile networks, ConvNeXt, and classical image filters."""

from bench.case import Case

MOBILENET = "Sandler et al. 2018, MobileNetV2"
EFFICIENTNET = "Tan & Le 2019, EfficientNet-B0"
CONVNEXT = "Liu et al. 2022, ConvNeXt-T"
IMAGE = "classical image filter on one full-HD plane"
GROUP = "depthwise"

CASES = [
    Case("mobilenet2/dw_112x32", GROUP, MOBILENET, (112, 112), 32, (3, 3), 32, padding=1,
         groups=32),
    Case("mobilenet2/dw_112x96_s2", GROUP, MOBILENET, (112, 112), 96, (3, 3), 96, stride=2,
         padding=1, groups=96),
    Case("mobilenet2/dw_56x144", GROUP, MOBILENET, (56, 56), 144, (3, 3), 144, padding=1,
         groups=144, batches=(1, 8)),
    Case("mobilenet2/dw_28x192", GROUP, MOBILENET, (28, 28), 192, (3, 3), 192, padding=1,
         groups=192),
    Case("mobilenet2/dw_14x384", GROUP, MOBILENET, (14, 14), 384, (3, 3), 384, padding=1,
         groups=384, smoke=True),
    Case("mobilenet2/dw_14x576_s2", GROUP, MOBILENET, (14, 14), 576, (3, 3), 576, stride=2,
         padding=1, groups=576),
    Case("mobilenet2/dw_7x960", GROUP, MOBILENET, (7, 7), 960, (3, 3), 960, padding=1, groups=960,
         batches=(1, 8)),
    Case("efficientnet/dw5_56x144_s2", GROUP, EFFICIENTNET, (56, 56), 144, (5, 5), 144, stride=2,
         padding=2, groups=144),
    Case("efficientnet/dw5_28x240", GROUP, EFFICIENTNET, (28, 28), 240, (5, 5), 240, padding=2,
         groups=240),
    Case("efficientnet/dw5_14x672", GROUP, EFFICIENTNET, (14, 14), 672, (5, 5), 672, padding=2,
         groups=672, batches=(1, 8)),
    Case("efficientnet/dw5_7x1152", GROUP, EFFICIENTNET, (7, 7), 1152, (5, 5), 1152, padding=2,
         groups=1152),
    Case("convnext/dw7_56x96", GROUP, CONVNEXT, (56, 56), 96, (7, 7), 96, padding=3, groups=96,
         batches=(1, 8)),
    Case("convnext/dw7_28x192", GROUP, CONVNEXT, (28, 28), 192, (7, 7), 192, padding=3, groups=192),
    Case("convnext/dw7_14x384", GROUP, CONVNEXT, (14, 14), 384, (7, 7), 384, padding=3, groups=384),
    Case("convnext/dw7_7x768", GROUP, CONVNEXT, (7, 7), 768, (7, 7), 768, padding=3, groups=768),
    Case("image/sharpen_3x3", GROUP, IMAGE, (1080, 1920), 1, (3, 3), 1, padding=1, batches=(1,),
         passes=("forward", "input_grad")),
    Case("image/gaussian_5x5", GROUP, IMAGE, (1080, 1920), 1, (5, 5), 1, padding=2, batches=(1,),
         passes=("forward", "input_grad"), filter_values="gaussian"),
]
