"""Fuzz every public function: compare random calls with an independent oracle.

``python -m tests.fuzz --minutes 10`` from the repository root. Read `run` first, the program of a
child process; `__main__` starts child processes, replaces those that crash, and prints the report.
"""
