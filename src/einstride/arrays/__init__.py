"""Pad, window and rearrange the arrays of any library; `backends` has an adapter for each library.

What may enter: functions of arrays that several algorithms use.
Start with `ops`; `backends.adapter` lists what an adapter must provide.
"""
