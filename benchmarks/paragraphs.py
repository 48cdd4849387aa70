"""Paragraphs of the documentation that comes with some packages, as token ids."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from offramp.base.arrays import IntArray

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "matplotlib")
FIELDS = ("input_ids", "attention_mask", "token_type_ids")  # of an encoder
_NAMES = re.compile(
    r"\b(numpy|np|scipy|sklearn|scikit|learn|torch|pytorch|matplotlib|pyplot|mpl)\b"
)
_WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")
_PADDING, _UNKNOWN = 0, 1
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Texts = Sequence[Sequence[str]]  # words of paragraphs


def corpus(each: int, seed: int = 0) -> tuple[list[list[str]], IntArray]:
    """Words of paragraphs and which package they are from, at most `each` of one, in random order.

    A paragraph that comes more than once is taken once.
    """
    random = np.random.default_rng(seed)
    texts, labels, seen = list[list[str]](), list[int](), set[str]()
    for label, package in enumerate(PACKAGES):
        prose = [text for text in dict.fromkeys(_paragraphs(package)) if text not in seen]
        seen.update(prose)
        chosen = random.permutation(len(prose))[:each]
        texts += [_WORD.findall(prose[i]) for i in chosen]
        labels += [label] * len(chosen)
    order = random.permutation(len(texts))
    return [texts[i] for i in order], np.array(labels)[order]


def vocabulary(texts: Texts, words: int) -> dict[str, int]:
    """A number for each of the commonest words; `words` counts padding and the unknown one."""
    counts = Counter(word for text in texts for word in text)
    return {word: number for number, (word, _) in enumerate(counts.most_common(words - 2), 2)}


def encoded(texts: Texts, known: Mapping[str, int], length: int) -> dict[str, IntArray]:
    """What an encoder reads, by `FIELDS`, each (n, length) int64; longer texts are cut."""
    ids = np.full((len(texts), length), _PADDING, dtype=np.int64)
    for row, text in enumerate(texts):
        numbers = [known.get(word, _UNKNOWN) for word in text[:length]]
        ids[row, : len(numbers)] = numbers
    mask = (ids != _PADDING).astype(np.int64)
    return dict(zip(FIELDS, (ids, mask, np.zeros_like(ids)), strict=True))


def _paragraphs(package: str) -> Iterator[str]:
    """Those of a package's docstrings that are prose, in lower case, names blotted out."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"this benchmark reads the documentation of {package}: install it.")
    for file in sorted(Path(spec.origin).parent.rglob("*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # broken on purpose, for tests of the package
            continue
        documented = (node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
        for paragraph in (p for node in documented for p in _parts(node)):
            text = " ".join(paragraph.split())
            if _is_prose(text):
                yield _NAMES.sub("it", text.lower())


def _parts(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return (ast.get_docstring(node) or "").split("\n\n")


def _is_prose(text: str) -> bool:
    return 40 <= len(text) <= 400 and text.count(" ") > 6 and not text.startswith((">>>", ".."))
