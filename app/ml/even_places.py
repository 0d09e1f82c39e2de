"""Which of many rows stand for all: evenly spread ones, since files are often sorted."""


def even_places(count: int, most: int) -> list[int]:
    """Returns the places of all of `count` rows, or of `most` evenly spread ones, ascending."""
    kept = min(count, most)
    return [number * count // kept for number in range(kept)]
