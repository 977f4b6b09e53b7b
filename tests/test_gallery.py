"""Every script of the gallery runs, quickly, and draws; its own asserts say what must hold."""

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib, the extra docs, is missing")
pytest.importorskip("sklearn", reason="scikit-learn, the extra docs, is missing")
pytest.importorskip("PIL", reason="pillow, the extra docs, is missing")

for needed, called in (("pygame", "pygame-ce, the extra docs"), ("dask", "Dask, the extra test")):
    if find_spec(needed) is None:
        pytest.skip(f"{called}, is missing", allow_module_level=True)

GALLERY = Path(__file__).parent.parent / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))


def test_there_are_twelve():
    assert len(SCRIPTS) >= 12


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt = pytest.importorskip("matplotlib.pyplot")
    with matplotlib.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        runpy.run_path(str(script), run_name="__main__")
        assert plt.get_fignums()
        plt.close("all")
    assert not list(tmp_path.iterdir())
