"""Class names and colours of the label sets that checkpoints use.

Names are the data sets' own; the colours of Cityscapes and CamVid are the ones their papers show,
those of ADE20K and of unnamed classes are spread by a rule (``spread_palette``).
"""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

CITYSCAPES: dict[str, Color] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

CAMVID: dict[str, Color] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

# CamVid's 11 classes among Cityscapes' 19, by the 32 classes CamVid made them of
CAMVID_IN_CITYSCAPES: dict[str, tuple[str, ...]] = {
    "sky": ("sky",),
    "building": ("building", "wall"),
    "pole": ("pole",),
    "road": ("road",),
    "pavement": ("sidewalk",),
    "tree": ("vegetation", "terrain"),
    "sign symbol": ("traffic light", "traffic sign"),
    "fence": ("fence",),
    "car": ("car", "truck", "bus", "train"),
    "pedestrian": ("person",),
    "bicyclist": ("rider", "motorcycle", "bicycle"),
}

ADE20K: tuple[str, ...] = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag""".replace("\n", " ").split(", ")
)
ADE20K = tuple(" ".join(name.split()) for name in ADE20K)


def spread_palette(count: int) -> tuple[Color, ...]:
    """Spread ``count`` RGB colours: hues a golden angle apart, lightness and saturation vary."""
    colors: list[Color] = []
    for index in range(count):
        hue = (0.58 + index * 0.618034) % 1.0
        lightness = (0.45, 0.62, 0.32)[index % 3]
        saturation = (0.65, 0.5)[(index // 3) % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)


def class_names_for(num_classes: int) -> tuple[str, ...]:
    """Name the classes of a checkpoint without names: Cityscapes, ADE20K, else ``class_0`` …."""
    if num_classes == len(CITYSCAPES):
        return tuple(CITYSCAPES)
    if num_classes == len(ADE20K):
        return ADE20K
    return tuple(f"class_{index}" for index in range(num_classes))


def are_unnamed(class_names: tuple[str, ...]) -> bool:
    """Whether the names only number the classes, as those of a checkpoint without names do."""
    return class_names == tuple(f"class_{index}" for index in range(len(class_names)))


def palette_for(class_names: tuple[str, ...]) -> tuple[Color, ...]:
    """Choose colours: Cityscapes' or CamVid's if all names are theirs, else ``spread_palette``."""
    for colors in (CITYSCAPES, CAMVID):
        if all(name in colors for name in class_names):
            return tuple(colors[name] for name in class_names)
    return spread_palette(len(class_names))


def meanings_of(class_names: tuple[str, ...], among: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Map a coarser label set's names to a finer one's; empty for all but CamVid, Cityscapes."""
    coarser = class_names == tuple(CAMVID) and among == tuple(CITYSCAPES)
    return CAMVID_IN_CITYSCAPES if coarser else {}
