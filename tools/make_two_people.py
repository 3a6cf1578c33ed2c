"""The demo picture with two people: the demo portrait beside its painted version, as close as people sit.

    python tools/make_two_people.py assets
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 390, 512  # of each half


def main(folder: Path) -> None:
    picture = Image.new("RGB", (2 * WIDTH, HEIGHT))
    for index, name in enumerate(("portrait.png", "portrait_stylised.png")):
        person = Image.open(folder / name).convert("RGB")
        left = (person.width - WIDTH) // 2
        picture.paste(person.crop((left, 0, left + WIDTH, HEIGHT)), (index * WIDTH, 0))
    picture.save(folder / "two_people.jpg", quality=92)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
