"""Provide the public functions and classes, with their documentation and no mathematics.

What may enter: functions and classes that `einstride` exports, and checks of their arguments.
Start with `conv`.
"""
