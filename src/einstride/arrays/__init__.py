"""Operations on the arrays of any library; `backends` holds an adapter for each library.

What may enter: functions of an array namespace that no algorithm owns.
Start with `ops`; `backends.adapter` says what an adapter has to bring.
"""
