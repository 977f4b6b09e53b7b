"""1-D: speech, music, genomes, room acoustics."""

from bench.case import Case

WAVENET = "van den Oord et al. 2016, WaveNet, filter and gate, one second at 16 kHz"
SINCNET = "Ravanelli & Bengio 2018, SincNet, 200 ms at 16 kHz"
WAV2VEC = "Baevski et al. 2020, wav2vec 2.0, one second at 16 kHz"
CREPE = "Kim et al. 2018, CREPE, 1024-sample frames"
ROOM = "room impulse response of half a second at 16 kHz, ten seconds of speech"
GROUP = "1-D"

CASES = [
    Case(
        "wavenet/dilation1", GROUP, WAVENET, (16000,), 32, (2,), 64, padding=((1, 0),), batches=(1,)
    ),
    Case(
        "wavenet/dilation64",
        GROUP,
        WAVENET,
        (16000,),
        32,
        (2,),
        64,
        padding=((64, 0),),
        dilation=64,
        batches=(1, 8),
    ),
    Case(
        "wavenet/dilation512",
        GROUP,
        WAVENET,
        (16000,),
        32,
        (2,),
        64,
        padding=((512, 0),),
        dilation=512,
        batches=(1,),
    ),
    Case("sincnet/bank_251", GROUP, SINCNET, (3200,), 1, (251,), 80),
    Case("wav2vec2/conv0", GROUP, WAV2VEC, (16000,), 1, (10,), 512, stride=5),
    Case("wav2vec2/conv1", GROUP, WAV2VEC, (3199,), 512, (3,), 512, stride=2, batches=(1, 8)),
    Case("wav2vec2/position", GROUP, WAV2VEC, (49,), 768, (128,), 768, padding=64, groups=16),
    Case("crepe/conv1", GROUP, CREPE, (1024,), 1, (512,), 1024, stride=4, padding=254),
    Case("crepe/conv2", GROUP, CREPE, (128,), 1024, (64,), 128, padding=((31, 32),)),
    Case(
        "whisper/conv1",
        GROUP,
        "Radford et al. 2022, Whisper tiny",
        (3000,),
        80,
        (3,),
        384,
        padding=1,
    ),
    Case(
        "demucs/encoder2",
        GROUP,
        "Defossez et al. 2019, Demucs, one second at 44.1 kHz",
        (11024,),
        64,
        (8,),
        128,
        stride=4,
        batches=(1,),
    ),
    Case(
        "conformer/depthwise_31",
        GROUP,
        "Gulati et al. 2020, Conformer, four seconds",
        (400,),
        256,
        (31,),
        256,
        padding=15,
        groups=256,
    ),
    Case(
        "deepsea/conv1",
        GROUP,
        "Zhou & Troyanskaya 2015, DeepSEA",
        (1000,),
        4,
        (8,),
        320,
        smoke=True,
    ),
    Case(
        "room/mono_8191",
        GROUP,
        ROOM,
        (160000,),
        1,
        (8191,),
        1,
        padding=((8190, 0),),
        batches=(1, 8),
    ),
    Case(
        "room/binaural_8191",
        GROUP,
        ROOM,
        (160000,),
        1,
        (8191,),
        2,
        padding=((8190, 0),),
        batches=(1,),
    ),
]
