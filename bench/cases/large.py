"""Large filters: RepLKNet, SLaK, blur and point-spread functions."""

from bench.case import Case

REPLKNET = "Ding et al. 2022, RepLKNet-31B"
SLAK = "Liu et al. 2023, SLaK-T, 51x5 and 5x51 stripes"
GROUP = "large filters"
IMAGING = ("forward", "input_grad")

CASES = [
    Case("replknet/stage1_31x31", GROUP, REPLKNET, (56, 56), 128, (31, 31), 128, padding=15,
         groups=128, batches=(1, 8)),
    Case("replknet/stage2_29x29", GROUP, REPLKNET, (28, 28), 256, (29, 29), 256, padding=14,
         groups=256),
    Case("replknet/stage3_27x27", GROUP, REPLKNET, (14, 14), 512, (27, 27), 512, padding=13,
         groups=512),
    Case("replknet/stage4_13x13", GROUP, REPLKNET, (7, 7), 1024, (13, 13), 1024, padding=6,
         groups=1024, batches=(1, 8), smoke=True),
    Case("slak/stage1_51x5", GROUP, SLAK, (56, 56), 96, (51, 5), 96, padding=(25, 2), groups=96),
    Case("slak/stage1_5x51", GROUP, SLAK, (56, 56), 96, (5, 51), 96, padding=(2, 25), groups=96),
    Case("image/blur_31x31", GROUP, "Gaussian blur of one full-HD plane", (1080, 1920), 1,
         (31, 31), 1, padding=15, batches=(1,), passes=IMAGING, filter_values="gaussian"),
    Case("image/bokeh_15x15", GROUP, "lens blur of one full-HD plane", (1080, 1920), 1, (15, 15),
         1, padding=7, batches=(1,), passes=IMAGING),
    Case("microscopy/psf_63x63", GROUP, "Richardson 1972, Lucy 1974: deconvolution steps",
         (512, 512), 1, (63, 63), 1, padding=31, batches=(1, 8), passes=IMAGING),
    Case("matching/template_64x64", GROUP, "template matching: 8 templates over one plane",
         (256, 256), 1, (64, 64), 8, batches=(1,)),
]
