"""Command line: `python -m serve` serves, `python -m serve translate FILE… --to de` translates files.

Exit codes: 0 all done; 1 a file or the engine failed; 2 the command line or a setting cannot be meant.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

from compress.checkpoint import POCKET, Checkpoint
from compress.errors import CheckpointError, KompaktError
from compress.prompt import LANGUAGES
from serve import logs
from serve.errors import SettingsError
from serve.settings import add_flags, read_settings

logger = logging.getLogger("serve")

_SERVE = "python -m serve"


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit code."""
    try:
        if arguments[:1] == ["translate"]:
            return _translate(_translate_parser(), arguments[1:])
        return _serve(_serve_parser().parse_args(arguments))
    except (SettingsError, CheckpointError) as error:
        print(f"{_SERVE}: {error}", file=sys.stderr)
        return 2
    except KompaktError as error:
        print(f"{_SERVE}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _serve_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_SERVE,
        description="Serves speech translation over HTTP, with a page to try it on. Stop it with Ctrl-C.",
        epilog=f"To translate files without a server: {_SERVE} translate FILE… --to de (see {_SERVE} translate --help)",
        allow_abbrev=False,
    )
    add_flags(parser)
    return parser


def _translate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{_SERVE} translate",
        description="Translates English speech in audio files: one line of text per file, in the order given. "
        "Recordings may be long: they are cut at their pauses.  A file that cannot be translated is named on stderr "
        "and makes the exit code 1.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="wav, flac, mp3, ogg, m4a or webm")
    parser.add_argument("--to", required=True, choices=list(LANGUAGES), help="target language")
    parser.add_argument(
        "--format",
        choices=["text", "srt", "vtt"],
        default="text",
        help="text, or subtitles of one file (default: text)",
    )
    parser.add_argument("--model", type=Path, default=POCKET, metavar="DIR", help="checkpoint (default: pocket)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    return parser


def _serve(flags: argparse.Namespace) -> int:
    # until the server listens to signals itself: the first process of a container would not be ended by them otherwise
    signal.signal(signal.SIGTERM, _leave)
    settings = read_settings(flags)
    remote = settings.engine == "remote"
    checkpoints = [] if remote else [Checkpoint.open(directory) for directory in settings.model]
    logs.configure(settings.log_format)
    from serve.server import bind, serve

    listener = bind(settings)
    if not (settings.keys or ip_address(listener.getsockname()[0]).is_loopback):
        logger.warning("whoever reaches %s may use this server; SERVE_API_KEYS asks for a key", settings.host)
    what = ", ".join(settings.remote_url if remote else (checkpoint.name for checkpoint in checkpoints))
    logs.announce(f"{'asking' if remote else 'loading'} {what} …", settings.log_format)
    from serve.engines.choice import engine_for

    engine = engine_for(settings, checkpoints)
    serve(settings, engine, listener)
    return 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """Ends the process in order: there is nothing to finish yet."""
    raise SystemExit(0)


def _translate(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    options = parser.parse_args(arguments)
    if options.format != "text" and len(options.files) > 1:
        parser.error(f"--format {options.format} takes one FILE, because subtitles of several cannot be told apart")
    checkpoint = Checkpoint.open(options.model)
    from serve.engines.transformers_engine import TransformersEngine
    from serve.files import translate_files

    engine = TransformersEngine([checkpoint], options.device)
    return asyncio.run(translate_files(engine, options.files, options.to, options.format))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
