"""Arrays so small that the cost is the call itself."""

from bench.case import Case

LENET = "LeCun et al. 1998, LeNet-5"
GROUP = "tiny"

CASES = [
    Case(
        "tiny/8x8x3",
        GROUP,
        "the smallest colour image that has an inside",
        (8, 8),
        3,
        (3, 3),
        4,
        batches=(1,),
        smoke=True,
    ),
    Case(
        "tiny/seed",
        GROUP,
        "the blog post's own check, (64, 28, 28, 3) with (6, 6, 3, 2)",
        (28, 28),
        3,
        (6, 6),
        2,
        stride=2,
        batches=(64,),
    ),
    Case(
        "tiny/series", GROUP, "moving average of a short series", (100,), 1, (7,), 1, batches=(1,)
    ),
    Case("lenet5/conv1", GROUP, LENET, (32, 32), 1, (5, 5), 6, batches=(1, 8)),
    Case("lenet5/conv2", GROUP, LENET, (14, 14), 6, (5, 5), 16, batches=(1, 8)),
    Case(
        "digits/conv1",
        GROUP,
        "scikit-learn digits, first layer of a small network",
        (8, 8),
        1,
        (3, 3),
        8,
        padding=1,
        batches=(8,),
    ),
    Case(
        "board/go_9x9",
        GROUP,
        "policy network on a 9x9 board",
        (9, 9),
        32,
        (3, 3),
        32,
        padding=1,
        batches=(1,),
    ),
]
