"""Finding evaluations that were made before, by what people type."""

import re
import shlex
from hashlib import sha256

from fcn_core import storage
from fcn_core.stored import EVALUATIONS, Stored, read_evaluation
from jobs._runs import Target

_LONGEST_NAME = 200


def file_name(text: str) -> str:
    """Return what people wrote, such as the name of a class, as the name of a file, without its ending."""
    name = re.sub(r"[^\w.-]+", "-", text)
    return name if len(name.encode()) <= _LONGEST_NAME else f"{name[:30]}-{sha256(text.encode()).hexdigest()[:10]}"


def stored_evaluation(target: Target, name: str) -> Stored:
    """Return an evaluation that was made before.

    Raises:
        FileNotFoundError: it was not; the message says which were, and what to type.
    """
    stored = read_evaluation(storage.join(target.url, EVALUATIONS, name))
    if stored is None:
        everything = storage.list_folder(storage.join(target.url, EVALUATIONS))
        there = [one for one in everything if not one.startswith(storage.PARTIAL)]
        known = f"there are {', '.join(there)}; " if there else ""
        options = "" if name == "val" else f"  (with the --split, --tta or --step that {name!r} stands for)"
        first = f"first python jobs/evaluate.py {shlex.quote(target.url)}{options}"
        raise FileNotFoundError(f"{target.url} has no evaluation {name!r}: {known}{first}")
    return stored
