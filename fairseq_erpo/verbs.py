"""Command lines made of verbs: `python -m fairseq_erpo VERB` and `python -m gail VERB`.

A verb is one function of a parser and its arguments, and one entry in a table.  Its module is
imported when the verb is called, so that --help starts at once.  A verb raises ValueError or
OSError for bad input; this module turns that into one line.
"""

import io
import os
import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from fairseq_erpo import __version__

# What `pip install` has to name for a program to have all its libraries
EXTRAS = {"fairseq_erpo": "fairseq", "gail": "gail"}
# Adds its arguments to the parser, parses them, and does the work
Run = Callable[[ArgumentParser, Sequence[str]], None]


def with_nearest(message: str, words: Iterable[str], flags: Collection[str]) -> str:
    """What argparse complains of, in one line; if one of the typed words is a flag that does not
    exist, with the nearest that does.
    """
    typed = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [word for word in typed if not any(flag.startswith(word) for flag in flags)]
    nearest = get_close_matches(unknown[0], flags, n=1) if unknown else []
    asked = f"{unknown[0]}: did you mean {nearest[0]}?" if nearest else "--help lists what there is"
    return f"{' '.join(message.split())}; {asked}"


class OneLineParser(ArgumentParser):
    """Ends with one line, where argparse prints all flags before it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        text = with_nearest(message, self.words, self._option_string_actions)
        self.exit(2, f"{self.prog}: {text}\n")


# A flag as data: what stands for its value in --help, its default, or its type where it has none,
# and what it means. One with the default False takes no value.
Option = tuple[str, Any, str]


def add_options(parser: ArgumentParser, options: Mapping[str, Option]) -> None:
    """Flags that take a value at most once."""
    for flag, (metavar, default, text) in options.items():
        if default is False:
            parser.add_argument(flag, action="store_true", help=text)
        elif isinstance(default, type):
            parser.add_argument(flag, metavar=metavar, type=default, help=text)
        else:
            text, kind = f"{text} (default: %(default)s)", type(default)
            parser.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)


class Verb(NamedTuple):
    """One verb: where its function is, and what --help prints."""

    module: str
    function: str
    help: str
    example: str

    def load(self) -> Run:
        """Import the module and return the verb's function."""
        run: Run = getattr(import_module(self.module), self.function)
        return run


def run_verb(
    program: str,
    description: str,
    verbs: Mapping[str, Verb],
    argv: Sequence[str] | None,
    prefix: str,
) -> None:
    """Run the verb that `argv` names; None stands for the command line.

    Ends with one line, `prefix: reason`, where the verb raises ValueError or OSError.
    """
    argv = sys.argv[1:] if argv is None else argv
    # Tokens are printed as they are; a terminal that cannot show one must not end the program.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = OneLineParser(prog=f"python -m {program}", description=description)
    parser.add_argument(
        "--version", action="version", version=f"{program}, of fairseq-erpo {__version__}"
    )
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    parsers = {
        name: subparsers.add_parser(
            name,
            help=verb.help,
            description=f"{verb.help[0].upper()}{verb.help[1:]}.",
            epilog=f"example:\n  {verb.example}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        for name, verb in verbs.items()
    }
    if not argv or argv[0] not in verbs:
        parser.parse_args(argv)  # --help, or argparse's error
        return
    # Ends like Ctrl-C: child processes end too, and one line is said
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        verbs[argv[0]].load()(parsers[argv[0]], argv[1:])
    except BrokenPipeError:  # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        raise SystemExit(
            f"{prefix}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        ) from None
    except ModuleNotFoundError as error:
        fix = f"install this package with its extra: pip install '.[{EXTRAS[program]}]'"
        raise SystemExit(f"{prefix}: {error}; {fix}") from None
    except KeyboardInterrupt:
        raise SystemExit(f"\n{prefix}: interrupted") from None


def dashed(name: str) -> str:
    """A flag as it is typed: erpo_anneal_every -> --erpo-anneal-every."""
    return f"--{name.replace('_', '-')}"
