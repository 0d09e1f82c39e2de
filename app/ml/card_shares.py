"""What a training process and the answerer may take of one card that both use.

Of 16 GiB: 8 for the training, 6.5 for the answerer, and 1.5 for what the driver keeps for each process, which torch's own
limit does not count. Other cards are cut in the same proportion.
"""

TRAINING_SHARE = 8 / 16
ANSWERING_SHARE = 6.5 / 16
