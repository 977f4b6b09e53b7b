"""Fuzz every public function: compare random calls with an independent oracle.

``python -m tests.fuzz --minutes 10`` from the repository root. Read `run` first: it says what a
child process does; `__main__` starts the children, survives their crashes and prints.
"""
