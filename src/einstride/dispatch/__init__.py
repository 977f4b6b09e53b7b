"""From a call to its result: check the arrays, plan, compute, and remember equal calls.

What may enter: what happens between a public function and an algorithm.
Start with `execute`; `call_cache` makes the third equal call a short one.
"""
