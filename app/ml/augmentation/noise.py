"""Typing slips. Digits stay: a number decides a code."""

import random


def with_slips(text: str, chance: float, chooser: random.Random) -> str:
    """Returns a text with each letter dropped, doubled or swapped with the next one at a chance; at least half of it stays."""
    characters = list(text)
    least, kept = len(characters) // 2, []
    place = 0
    while place < len(characters):
        character = characters[place]
        place += 1
        if not character.isalpha() or chooser.random() >= chance:
            kept.append(character)
            continue
        slip = chooser.randrange(3)
        if slip == 0 and len(kept) + len(characters) - place >= max(1, least):
            continue
        kept.append(character)
        if slip == 1:
            kept.append(character)
        elif slip == 2 and place < len(characters) and characters[place].isalpha():
            kept[-1] = characters[place]
            kept.append(character)
            place += 1
    return "".join(kept)
