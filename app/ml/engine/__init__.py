"""The torch zone: token ids, shapes and seeds in; tensors and folders out. Text, rows and jobs stay outside.

Dimension letters: B rows of a batch, T tokens of a row, S answer tokens of a row, V vocabulary, W beam width.
"""
