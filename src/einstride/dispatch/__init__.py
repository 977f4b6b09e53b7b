"""Compute the result of a call: check the arrays, plan, run, and remember equal calls.

What may enter: what happens between a public function and an algorithm, for all algorithms alike.
Start with `execute`; `call_cache` makes the third equal call a short one.
"""
