"""Print how many of SciPy's own tests pass with einstride's functions in their place."""

import sys

from scipy_suites import suites


def main() -> int:
    """Run every suite; return 1 if a test failed that is not listed."""
    unexpected = 0
    for suite in suites.SUITES:
        outcomes = suites.run(suite)
        failed = suites.failed(outcomes)
        new = [name for name in failed if suites.reason(name) is None]
        unexpected += len(new)
        passed = len(outcomes) - len(failed)
        print(f"{suite}: {passed} passed, {len(failed) - len(new)} cannot, {len(new)} failed")
        print("\n".join(f"  {name}" for name in new), end="\n" if new else "")
    return int(unexpected > 0)


sys.exit(main())
