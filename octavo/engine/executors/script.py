"""What a fake device is told to answer, as tokens: the text of `--device fake:say=TEXT` or `say=@FILE`."""

from __future__ import annotations

import json
from pathlib import Path

from octavo.errors import StartupError
from octavo.frontend.tokenizer import Tokenizer
from octavo.messages import SequenceSpec, unpack_ids


class Script:
    """Which text a sequence answers: the one whose part comes last in the prompt."""

    def __init__(self, say: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        texts = read(Path(say[1:])) if say.startswith("@") else {"": say}
        self._answers = {part: tokenizer.encode(text, add_special_tokens=False) for part, text in texts.items()}

    def __call__(self, spec: SequenceSpec) -> list[int]:
        """The tokens of the answer, the end-of-sequence last; none when no part is in the prompt."""
        prompt = self._tokenizer.decode(unpack_ids(spec.tokens), skip_special_tokens=False)
        # "" is found everywhere, and so before everything else.
        places = {part: prompt.rfind(part) if part else -0.5 for part in self._answers}
        best = max(places, key=lambda part: places[part], default=None)
        if best is None or places[best] == -1:
            return []
        return [*self._answers[best], *spec.eos[:1]]


def read(path: Path) -> dict[str, str]:
    """The script in a file; StartupError when it is not a JSON object of texts."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"device option say: cannot read {path}: {error}", "device") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise StartupError(f"device option say: {path} must hold a JSON object of texts", "device")
    return found
