"""Run SciPy's own tests of the functions that `einstride.signal` and `einstride.ndimage` offer.

`python -m tests.scipy_suites` runs all of them, on NumPy and through SciPy's array-API switch on
array-api-strict and PyTorch, and prints the counts. `cannot_pass.toml` lists each test that cannot
pass, with its reason. Start with `suites`.
"""
