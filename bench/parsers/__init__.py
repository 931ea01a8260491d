"""What vendors' tools print, read into small frozen dataclasses: pure functions of text, standard library only.

One module per tool. All follow the same rules. A number that is not there is None, never 0; a broken one (``nan``, ``inf``, 400
digits) counts as not there. Units are in the field names. What a parser does not understand is kept in ``unknown``. Of a value that
comes twice the last one is taken. Input is bounded (``text.MAX_CHARS``); ``truncated`` says that something was left out.
"""
