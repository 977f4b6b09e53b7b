"""Kernel texts, compared by digest: shows whether a change of the code changes what is compiled.

`specifications.toml` lists calls of public functions for named target machines, `digests.txt` the
digest of every kernel text that the calls ask for. Start reading at `generate.py`.
"""
