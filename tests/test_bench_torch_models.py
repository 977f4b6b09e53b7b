"""bench.torch_models times networks of PyTorch, eager and converted, and writes a table."""

import json

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("llvmlite", reason="without kernels nothing is routed")
from bench import torch_layers, torch_models  # noqa: E402
from bench.torch_networks import NETWORKS  # noqa: E402


def test_smoke_writes_a_table(tmp_path, capfd):
    threads = torch.get_num_threads()
    table, records = tmp_path / "table.md", tmp_path / "records.json"
    try:
        arguments = ["--smoke", "--markdown", str(table), "--json", str(records)]
        assert torch_models.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(records.read_text())
    assert len(found) == 12
    assert all(r["ratio"] > 0 and r["error"] < torch_models.WRONG for r in found)
    text = table.read_text()
    assert text.count("Geometric mean") == 3
    assert "| WaveNet |" in text
    assert "WaveNet" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["ResNet-50", "MobileNetV2", "EfficientNet-B0", "ConvNeXt-T"])
def test_networks_have_the_published_number_of_parameters(name):
    published = {
        "ResNet-50": 25557032,
        "MobileNetV2": 3504872,
        "EfficientNet-B0": 5288548,
        "ConvNeXt-T": 28589128,
    }
    with torch.device("meta"):
        model = NETWORKS[name].make()
    assert sum(p.numel() for p in model.parameters()) == published[name]


def test_layers_are_timed_beside_what_is_predicted(capfd):
    threads = torch.get_num_threads()
    try:
        assert torch_layers.main(["--smoke", "--network", "WaveNet"]) == 0
        assert torch_layers.main(["--smoke", "--network", "3-D", "--training"]) == 0
    finally:
        torch.set_num_threads(threads)
    text = capfd.readouterr().out
    assert "conv1d 1x8x65" in text
    assert "conv3d 1x3x6x6x6" in text
    assert "PyTorch: measured over predicted, median" in text
