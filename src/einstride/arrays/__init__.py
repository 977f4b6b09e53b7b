"""Operations on arrays of any library, and one adapter for each library.

What may enter: functions of an array namespace that no algorithm owns.
Start with `ops`; the adapters are in `backends`.
"""
