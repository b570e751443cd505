"""Numbers of the embedded model that tests need, read from its folder: they hold for whatever model ships."""

import json

from octavo.pocket import FOLDER

VOCAB_SIZE: int = json.loads((FOLDER / "config.json").read_text())["vocab_size"]
