"""Compare kernel texts by digest, to show whether a change of the code changes any kernel.

A kernel text is the LLVM IR that is compiled to a kernel. `specifications.toml` lists calls of
public functions for named targets, `digests.txt` the digest of each kernel text that the
calls need. Start reading at `generate.py`.
"""
