"""Single files from the network, by the hash of their content."""

import hashlib
import urllib.request
from http.client import HTTPException, IncompleteRead

from msmeta.data import raw
from msmeta.data.raw import MAX_BYTES, reach, reason
from msmeta.errors import DataError


def fetch(url: str, sha256: str, way_out: str) -> bytes:
    """The content of a file, whose SHA-256 begins with `sha256` (hexadecimal; nothing is checked if it is empty).

    Raises DataError in one line that names the URL, the reason and the way out: if the host cannot be reached, falls
    silent for STALL_SECONDS or hangs up early, or if the file is larger than MAX_BYTES or another one.
    """
    try:
        reach(url)
        with urllib.request.urlopen(url, timeout=raw.STALL_SECONDS) as answer:
            content, announced = answer.read(MAX_BYTES + 1), answer.headers.get("Content-Length")
        if announced is not None and len(content) < min(int(announced), MAX_BYTES + 1):
            raise IncompleteRead(content, int(announced) - len(content))
        require(content, sha256)
    except IncompleteRead as error:
        why = f"it ended after {len(error.partial):,} bytes"
        raise DataError(f"could not download {url} ({why}): {way_out}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"could not download {url} ({reason(error)}): {way_out}") from error
    return content


def require(content: bytes, sha256: str) -> str:
    """The content's SHA-256. Raises ValueError where it does not begin as this one, or is larger than MAX_BYTES."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than the {MAX_BYTES:,} bytes allowed")
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(sha256):
        raise ValueError(f"its SHA-256 is {found[:16]}..., not {sha256[:16]}...")
    return found
