"""What users call: public functions and classes, each with its documentation; no mathematics.

What may enter: functions and classes that `einstride` exports, and the reading of their arguments.
Start with `conv`.
"""
