"""Lists of synonyms that come with the product, as text files (see `app.ml.augmentation.synonyms`)."""
