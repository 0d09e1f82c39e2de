"""Dataset files: bytes to examples, streaming, errors with row and field.

* report       one pass over a file: what it holds, what is wrong, and its canonical rows
* reading      a file of any format -> examples and row errors
* detection    which format;  encoding: which encoding;  columns: which column is what
* alpaca, chat, delimited, workbook        one format each -> raw rows
* example      the rules that every row must keep;  normalisation, notes: what was changed, what is odd
* canonical    the stored rows that jobs read
* repetition   duplicates, conflicts and leaks, on digests that `spilling` keeps on disk
* token_lengths
"""
