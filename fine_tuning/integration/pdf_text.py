"""Read a PDF in a child process, which gets the file on stdin and writes its text to stdout.

If the PDF has no text, the reason is one line on stderr. The script is run by its path and imports
nothing from byoai: whatever a malicious file causes happens here, with limited memory and time.
"""

import io
import sys

MEMORY = 1 << 30  # bytes
SECONDS = 8  # of computing


def main(limit: int) -> int:
    """Write about the first `limit` characters of the text; return the exit status."""
    _bound()
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    sys.setrecursionlimit(2_000)
    try:
        reader = PdfReader(io.BytesIO(sys.stdin.buffer.read()))
        if reader.is_encrypted and not reader.decrypt(""):
            return _refuse("it is encrypted: save it without a password")
        length = 0
        for page in reader.pages:
            text = page.extract_text()
            sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n\n")
            length += len(text)
            if length >= limit:
                break
    except MemoryError:
        return _refuse("it needs too much memory to be read")
    except (
        PyPdfError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return _refuse("it is damaged")
    except ImportError:  # the package for decryption is missing
        return _refuse("it is encrypted: save it without a password")
    return 0


def _refuse(why: str) -> int:
    sys.stderr.write(why)
    return 1


def _bound() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
