"""Compute the result of a call: check the arrays, plan, run, and cache checks and plan.

What may enter: what happens between a public function and an algorithm, for all algorithms alike.
Start with `execute`; `call_cache` skips checks and plan from the third equal call on.
"""
