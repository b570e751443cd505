"""Print dialogues of the corpus as the model reads them.

python scripts/pocket/show.py 5                                    # of training
python scripts/pocket/show.py 3 --skill tools                      # of one skill
python scripts/pocket/show.py 300 --split templates > held_out.txt # for `octavo bench perplexity --text held_out.txt`
"""

from __future__ import annotations

import argparse
import random

import corpus
from encoding import FOLDER, Encoder
from exchange import SPLITS
from tokenizers import Tokenizer


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="of dialogues")
    parser.add_argument("--skill", choices=list(corpus.SKILLS), help="default: every skill in its share")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=8)
    options = parser.parse_args()
    encoder = Encoder.of(Tokenizer.from_file(str(FOLDER / "tokenizer.json")))
    rng = random.Random(f"{options.seed} shown")
    skills = [corpus.SKILLS[options.skill]] if options.skill else list(corpus.SKILLS.values())
    for skill in rng.choices(skills, [each.share for each in skills], k=options.count):
        ids, _ = encoder.chat([skill.draw(rng, options.split)], thinking=False)
        print(encoder.tokenizer.decode(ids, skip_special_tokens=False), end="")


if __name__ == "__main__":
    main()
