"""Everyday procedures of the invented world: activities with their steps in order."""

from __future__ import annotations

PROCEDURES: dict[str, tuple[str, ...]] = {
    "Making soup": (
        "fills a pot with water",
        "cuts the roots into pieces",
        "puts the roots in the pot",
        "stirs the soup slowly",
        "pours the soup into a bowl",
    ),
    "Baking bread": (
        "mixes flour with water",
        "kneads the dough",
        "lets the dough rest",
        "puts the loaf in the oven",
        "takes out the warm bread",
    ),
    "Washing a dog": (
        "calls the dog",
        "makes the dog wet",
        "rubs soap on its back",
        "rinses the soap away",
        "dries the dog with a towel",
    ),
    "Planting a tree": (
        "digs a hole",
        "sets the young tree in the hole",
        "fills the hole with earth",
        "waters the tree",
        "ties the tree to a stick",
    ),
    "Painting a wall": (
        "covers the floor with paper",
        "opens a can of paint",
        "dips the brush in the paint",
        "paints the wall from top to bottom",
        "cleans the brush",
    ),
    "Building a fire": (
        "gathers dry wood",
        "makes a ring of stones",
        "stacks the wood in the ring",
        "lights the wood",
        "warms both hands at the fire",
    ),
    "Catching fish": (
        "ties a hook to a line",
        "puts bait on the hook",
        "throws the line into the water",
        "waits for a bite",
        "pulls the fish out",
    ),
    "Writing a letter": (
        "takes a sheet of paper",
        "writes a greeting",
        "fills the page with news",
        "signs the page",
        "seals the envelope",
    ),
    "Repairing a boat": (
        "drags the boat to land",
        "looks for the leak",
        "nails a board over the leak",
        "covers the board with tar",
        "pushes the boat back into the water",
    ),
    "Making tea": (
        "boils some water",
        "puts leaves in a cup",
        "pours the water over the leaves",
        "adds a spoon of honey",
        "drinks the tea",
    ),
    "Sewing a coat": (
        "measures the cloth",
        "cuts the cloth with scissors",
        "threads a needle",
        "sews the pieces together",
        "tries on the coat",
    ),
    "Climbing a hill": (
        "puts on strong boots",
        "packs a small bag",
        "follows the path up",
        "rests half way",
        "looks down from the top",
    ),
    "Milking a goat": (
        "leads the goat to the shed",
        "sits on a low stool",
        "sets a bucket under the goat",
        "fills the bucket with milk",
        "carries the milk to the kitchen",
    ),
    "Playing a song": (
        "opens a case",
        "takes out a fiddle",
        "tunes the strings",
        "plays a merry song",
        "bows to the crowd",
    ),
    "Picking apples": (
        "leans a ladder on the tree",
        "climbs the ladder",
        "picks the ripe apples",
        "lays the apples in a basket",
        "carries the basket home",
    ),
    "Selling honey": (
        "puts on a thick veil",
        "opens the hive",
        "scrapes honey into a jar",
        "closes the jar",
        "sells the jar at the market",
    ),
}

TAILS: tuple[str, ...] = ("", "", "", " with care", " without a word", " in the shade", " while the sun goes down")
"""Endings of a step without meaning; they make the answers differ in length."""
