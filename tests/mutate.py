"""Does a test notice?  Break the mathematics in one place after another, and run the tests that
cover that file.

    python tests/mutate.py              87 places over all files, the same each time
    python tests/mutate.py --list       what would be tried
    python tests/mutate.py --file fairseq_erpo/algorithm/risk.py --number 0     every place of it

A mutation turns a comparison round, exchanges + and -, min and max, `and` and `or`, alters a
number, drops a `not`, an argument or a call of a chain.  Each is made in a copy of the tree.  It is
killed if a test fails or the time is over, and survives if all pass: then a test is missing, or the
mutation is equivalent and goes into EQUIVALENT with its reason.  Exit code 1 below 95 %.
"""

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MOST = 600  # seconds of the tests of one file, where nothing is mutated
PATIENCE = 4  # a mutation may take so many times as long, and half a minute more
LEAST = 0.95  # of the mutations that are not equivalent
# Imported once: they take longer than most tests.
LIBRARIES = (
    "torch",
    "scipy.stats",
    "hypothesis",
    "sacrebleu",
    "rouge_score.rouge_scorer",
    "fairseq.tasks",
    "stable_baselines3",
)

ROWS = ("test_family.py",)
SAMPLER = ("test_sampler.py", *ROWS)
REWARDS = ("test_rewards.py",)
# What is mutated -> the tests that cover it, the quickest first.
COVERED: Mapping[str, tuple[str, ...]] = {
    "fairseq_erpo/mixture.py": ("test_mixture.py", "test_annealers.py"),
    "fairseq_erpo/annealers.py": ("test_annealers.py", "test_mixture.py"),
    "fairseq_erpo/scores.py": ("test_scores.py",),
    "fairseq_erpo/text_rewards.py": ("test_text_rewards.py", "-k", "not corpus and not beam"),
    "fairseq_erpo/algorithm/advantage.py": ROWS,
    "fairseq_erpo/algorithm/answers.py": SAMPLER,
    "fairseq_erpo/algorithm/baselines.py": ROWS,
    "fairseq_erpo/algorithm/batch.py": (*ROWS, "test_criterions.py"),
    "fairseq_erpo/algorithm/beside_data.py": ROWS,
    "fairseq_erpo/algorithm/draw.py": ROWS,
    "fairseq_erpo/algorithm/estep.py": ("test_sampler.py", "test_mstep.py", *ROWS),
    "fairseq_erpo/algorithm/graphs.py": ("test_criterions.py", "-k", "filled"),
    "fairseq_erpo/algorithm/layouts.py": SAMPLER,
    "fairseq_erpo/algorithm/mstep.py": ("test_mstep.py", *ROWS),
    "fairseq_erpo/algorithm/neighbours.py": ("test_noising.py", *ROWS),
    "fairseq_erpo/algorithm/noising.py": ("test_noising.py",),
    "fairseq_erpo/algorithm/packing.py": ("test_packing.py", "test_mstep.py"),
    "fairseq_erpo/algorithm/risk.py": ROWS,
    "fairseq_erpo/algorithm/sampler.py": SAMPLER,
    "fairseq_erpo/algorithm/schedule.py": ("test_annealers.py", "test_bad_input.py"),
    "fairseq_erpo/algorithm/step.py": SAMPLER,
    "fairseq_erpo/algorithm/targets.py": ("test_mstep.py", *ROWS),
    "fairseq_erpo/algorithm/uniforms.py": ("test_uniforms.py",),
    "fairseq_erpo/algorithm/weigh.py": ROWS,
    "fairseq_erpo/family/effect.py": (*ROWS, "test_bad_input.py"),
    "fairseq_erpo/family/resolve.py": (*ROWS, "test_bad_input.py"),
    "fairseq_erpo/algorithm/corpus_statistics.py": ("test_text_rewards.py", "-k", "corpus"),
    "fairseq_erpo/plugin/row_inputs.py": (
        "test_mstep.py",
        "test_text_rewards.py",
        "test_bad_input.py",
        "-k",
        "baseline or beam or paid or noise",
    ),
    "fairseq_erpo/plugin/transformer_steps.py": ("test_criterions.py", "-k", "steps"),
    "fairseq_erpo/rewards/base.py": REWARDS,
    "fairseq_erpo/rewards/bleu.py": REWARDS,
    "fairseq_erpo/rewards/corpus_bleu.py": REWARDS,
    "fairseq_erpo/rewards/edit.py": REWARDS,
    "fairseq_erpo/rewards/overlap.py": REWARDS,
    "fairseq_erpo/rewards/rouge.py": REWARDS,
    "gail/demo_prefix.py": ("test_gail_ppo.py", "test_gail_envs.py"),
    "gail/discriminator.py": ("test_gail_discriminator.py",),
    "gail/ppo.py": ("test_gail_ppo.py", "test_gail_methods.py"),
    "gail/prefix_length.py": ("test_gail_envs.py", "test_gail_ppo.py", "test_gail_methods.py"),
    "gail/schedules.py": ("test_gail_methods.py",),
    "gail/settings.py": ("test_gail_methods.py", "test_gail_run.py"),
}

# File -> (the statement, what was mutated, the mutation) -> why nothing can notice.
EQUIVALENT: Mapping[str, Mapping[tuple[str, str, str], str]] = {
    "fairseq_erpo/annealers.py": {
        (
            "leg = sum((way >= end for end in range(1, len(points) - 1)))",
            "way >= end",
            "(way > end)",
        ): "at a corner of the path both legs say the same",
        (
            "return lambda elapsed: 1 - k / (k + math.exp(min(elapsed / k, 700)))",
            "700",
            "701",
        ): "the share is 1 to the last bit long before",
        (
            "size = min(1.0, PAPER_STEP / fall) if fall > 0 else 1.0",
            "1.0",
            "2.0",
        ): "a way without a fall ends where it starts; the other 1.0 of the line has its test",
    },
    "gail/demo_prefix.py": {
        ("rng = np.random.default_rng(0)", "0", "1"): "which steps are taken again; any will do",
        (
            "if mode == 'replay' or start > rows.start:",
            "start > rows.start",
            "(start >= rows.start)",
        ): "the one step of a demonstration of one step is taken again once more",
        (
            "env.simulator.pin(demos.states[row + 1])",
            "1",
            "2",
        ): "for roundings of another processor than the one that recorded",
    },
    "fairseq_erpo/mixture.py": {
        (
            "if abs(total - 1) > SUM_TOLERANCE:",
            "abs(total - 1) > SUM_TOLERANCE",
            "(abs(total - 1) >= SUM_TOLERANCE)",
        ): "no sum of floats near 1 lies exactly there"
    },
    "fairseq_erpo/scores.py": {
        (
            "squared = (precision / (recall + 1e-12)) ** 2",
            "1e-12",
            "2e-12",
        ): "against a division by 0; far below the last digit of a score",
        (
            "scores['rougeL'] = (1 + squared) * recall * precision "
            "/ (recall + squared * precision + 1e-12)",
            "1e-12",
            "2e-12",
        ): "against a division by 0; far below the last digit of a score",
    },
    "fairseq_erpo/rewards/overlap.py": {
        (
            "longer = (lcs[..., :-1] + 1) * here[:, None]",
            "1",
            "2",
        ): "twice the length everywhere: lengths are compared only"
    },
    "fairseq_erpo/algorithm/uniforms.py": {
        (
            "return word - (1 << 64) if word >> 63 else word",
            "word - (1 << 64) if word >> 63 else word",
            "(word)",
        ): "this torch takes 64 bits as they are, others refuse them"
    },
    "gail/discriminator.py": {
        (
            "with torch.random.fork_rng(devices=[]):",
            "torch.random.fork_rng(devices=[])",
            "torch.random.fork_rng()",
        ): "without a GPU both keep the same numbers"
    },
    "fairseq_erpo/plugin/transformer_steps.py": {
        (
            "joined = joined.unflatten(-1, (3, self.heads, -1))",
            "-1",
            "1",
        ): "of two dimensions the last is the second"
    },
    "fairseq_erpo/algorithm/neighbours.py": {
        (
            "return torch.minimum((cdf <= u).sum(1), r)",
            "cdf <= u",
            "(cdf < u)",
        ): "no uniform number of 53 bits is a sum of these probabilities",
        (
            "start = _integer(u.select(1, 1), (r - n).clamp(min=1))",
            "(r - n).clamp(min=1)",
            "r - n",
        ): "it is 0 for one token, which is never replaced",
    },
    "fairseq_erpo/algorithm/layouts.py": {
        (
            "z = z.masked_fill(u < mixture.data + mixture.reward, int(Expert.REWARD)) "
            "if mixture.reward else z",
            "z.masked_fill(u < mixture.data + mixture ... e.reward else z",
            "(z.masked_fill(u < mixture.data + mixtur ... xpert.REWARD)))",
        ): "without a share it marks what becomes data anyway"
    },
}


# ---- mutations ----


class Mutation(NamedTuple):
    """One place of a file, as bytes start..end of it, and what comes there."""

    file: str
    line: int
    start: int
    end: int
    code: str  # the statement on one line; of a compound one its head
    old: str
    new: str

    def within(self, source: bytes) -> bytes:
        """The file with it."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {_short(self.old)} -> {_short(self.new)}"


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) < 60 else f"{line[:40]} ... {line[-15:]}"


COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
PAIRS = (
    "min max",
    "amin amax",
    "argmin argmax",
    "minimum maximum",
    "any all",
    "eq ne",
    "lt ge",
    "le gt",
    "floor ceil",
)
NAMES = {one: other for pair in map(str.split, PAIRS) for one, other in (pair, pair[::-1])}
# Numbers of dimensions: another one is a wrong shape, which any test notices.
DIMENSIONS = (
    "size",
    "sum",
    "mean",
    "amax",
    "amin",
    "argmax",
    "std",
    "var",
    "any",
    "all",
    "cumsum",
    "cummax",
    "cummin",
    "cumprod",
    "prod",
    "flip",
    "softmax",
    "log_softmax",
    "logsumexp",
    "argsort",
    "unsqueeze",
    "select",
    "unbind",
    "flatten",
    "unflatten",
    "gather",
    "repeat",
    "repeat_interleave",
    "expand",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "cat",
    "stack",
    "index_copy",
    "index_fill_",
    "scatter_add_",
    "dim",
    "transpose",
    "view",
)
# Arguments that are no mathematics either
UNTOUCHED = ("device", "dtype", "strict", "key", "file", "flush")
# Calls that a chain can do without: x.clamp(min=1) -> x.
LINKS = (
    "clamp",
    "sqrt",
    "square",
    "exp",
    "expm1",
    "abs",
    "round",
    "masked_fill",
    "flip",
    "cumsum",
    "softmax",
    "log_softmax",
)


def mutations(file: str, source: bytes) -> list[Mutation]:
    """Every mutation of a file, in its order."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    tree = ast.parse(source)
    statement = _statements(tree)
    for node, new in _changes(tree):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
        code = statement[id(node)]
        found.append(Mutation(file, node.lineno, start, end, code, source[start:end].decode(), new))
    return sorted(set(found), key=lambda one: (one.start, one.end, one.new))


def _statements(tree: ast.AST) -> Mapping[int, str]:
    """The statement of each node by the node's id, however the formatter breaks its lines."""
    found = {}
    # Breadth first: an inner statement comes after the one that holds it
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt):
            code = " ".join(ast.unparse(statement).split())
            head = ast.unparse(statement).strip().splitlines()[0]
            for node in ast.walk(statement):
                found[id(node)] = head if hasattr(statement, "body") else code
    return found


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """An expression, and the code that comes in its place."""
    passive = {id(part) for node in ast.walk(tree) for part in _passive(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and id(node) not in passive:
            for changed in _of(node):
                yield (
                    node,
                    f"({changed})"
                    if isinstance(node, ast.BinOp | ast.BoolOp | ast.Compare | ast.IfExp)
                    else changed,
                )


def _passive(node: ast.AST) -> Iterator[ast.AST]:
    """Annotations, decorators, the words of errors, and numbers of dimensions and items: they are
    no mathematics.
    """
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.arg | ast.AnnAssign):
        parts = [node.annotation]
    elif isinstance(node, ast.FunctionDef):
        parts = [node.returns, *node.decorator_list]
    elif isinstance(node, ast.ClassDef):
        names = any("Enum" in ast.unparse(base) for base in node.bases)  # whose numbers are labels
        parts = [*node.decorator_list, *(node.body if names else [])]
    elif isinstance(node, ast.UnaryOp):
        # -1 becomes 1 as a whole
        parts = [node.operand] if isinstance(node.operand, ast.Constant) else []
    elif isinstance(node, ast.Subscript):
        parts = [node.slice] if isinstance(node.slice, ast.Constant) else []
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in DIMENSIONS
    ):
        parts = [part for part in node.args if isinstance(part, ast.Constant)]
    elif isinstance(node, ast.keyword):
        parts = [node.value] if node.arg in UNTOUCHED else []
    elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
        parts = [node]
    elif isinstance(node, ast.Assign) and isinstance(
        node.value, ast.Call | ast.Subscript | ast.Name
    ):
        aliases = [
            target.id[:1].isupper() and not target.id.isupper()
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        parts = [node.value] if any(aliases) else []
    for part in filter(None, parts):
        yield from ast.walk(part)


def _of(node: ast.expr) -> Iterator[str]:
    """The mutations of this expression itself."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS[type(node.ops[0])]:
            yield _unparsed(node, ops=[other()])
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_text(node):
        yield _unparsed(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _unparsed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.IfExp):
        yield from (ast.unparse(node.body), ast.unparse(node.orelse))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield str(not node.value)
        elif isinstance(node.value, int | float):
            yield str(node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr in NAMES:
            yield _unparsed(
                node, func=ast.Attribute(function.value, NAMES[function.attr], ast.Load())
            )
        if function.attr in LINKS:
            yield ast.unparse(function.value if not _is_module(function.value) else node.args[0])
    elif isinstance(function, ast.Name) and function.id in NAMES:
        yield _unparsed(node, func=ast.Name(NAMES[function.id], ast.Load()))
    # Which wants all of its fields
    record = getattr(function, "attr", getattr(function, "id", ""))[:1].isupper()
    needed = record or getattr(function, "attr", "") in LINKS
    for keyword in node.keywords * (not needed):
        if keyword.arg not in (None, *UNTOUCHED):
            yield _unparsed(
                node, keywords=[other for other in node.keywords if other is not keyword]
            )


def _unparsed(node: ast.expr, **changed: object) -> str:
    fields = {name: getattr(node, name) for name in node._fields}
    return ast.unparse(ast.fix_missing_locations(type(node)(**{**fields, **changed})))


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str)
        for part in ast.walk(node)
    )


def _is_module(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("torch", "math", "np")


def described(mutation: Mutation) -> tuple[str, str, str]:
    """As EQUIVALENT has it, whatever the line's number."""
    return mutation.code, _short(mutation.old), _short(mutation.new)


def equivalent(mutation: Mutation) -> bool:
    """Whether nothing can notice."""
    return described(mutation) in EQUIVALENT.get(mutation.file, {})


def chosen(files: list[str], number: int, seed: int) -> list[Mutation]:
    """`number` mutations, as evenly over the files as they allow; all of them if it is 0."""
    rng = random.Random(seed)
    left = {}
    for file in files:
        left[file] = mutations(file, (ROOT / file).read_bytes())
        rng.shuffle(left[file])
    found: list[Mutation] = []
    while any(left.values()) and (not number or len(found) < number):
        for file in rng.sample(files, len(files)):
            if left[file] and (not number or len(found) < number):
                one = left[file].pop()
                found += [] if equivalent(one) else [one]
    return found


# ---- running ----


def run(tree: Path, arguments: Sequence[str]) -> int:
    """The quick tests in this copy, in a process of their own that has the libraries already.  ->
    its id
    """
    log = tree.with_suffix(".log").open("w")
    pid = os.fork()
    if pid:
        log.close()
        return pid
    ended = 1
    try:
        os.setsid()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.chdir(tree)
        sys.path[:] = [
            str(tree),
            *(entry for entry in sys.path if not entry.startswith(str(ROOT)) or ".venv" in entry),
        ]
        os.environ["PYTHONPATH"] = str(tree)
        tests = [f"tests/{word}" if word.endswith(".py") else word for word in arguments]
        ended = int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]))
        here = sys.modules.get("fairseq_erpo")
        assert here is None or str(here.__file__).startswith(str(tree)), here
    finally:
        os._exit(ended)


class Job(NamedTuple):
    """Tests that run in a copy of the tree, with one mutation or none."""

    tree: Path
    arguments: tuple[str, ...]
    mutation: Mutation | None
    whole: bytes  # the file as it was
    ends: float  # when the time is over
    began: float


def start(
    tree: Path, arguments: tuple[str, ...], mutation: Mutation | None, limit: float
) -> tuple[int, Job]:
    """Mutate the copy, and test it."""
    whole, now = b"", time.monotonic()
    if mutation is not None:
        path = tree / mutation.file
        whole = path.read_bytes()
        path.write_bytes(mutation.within(whole))
    return run(tree, arguments), Job(tree, arguments, mutation, whole, now + limit, now)


# Pytest's arguments, what is mutated, and seconds that it may take
Task = tuple[tuple[str, ...], Mutation | None, float]


def results(todo: Sequence[Task], trees: list[Path]) -> Iterator[tuple[Job, str, float]]:
    """Run them all, as many at a time as there are copies; -> each with how it ended, and after how
    many seconds.
    """
    waiting, running = list(todo), {}
    while waiting or running:
        while waiting and trees:
            pid, job = start(trees.pop(), *waiting.pop(0))
            running[pid] = job
        pid, status = os.waitpid(-1, os.WNOHANG)
        late = next((at for at, job in running.items() if time.monotonic() > job.ends), 0)
        if late and not pid:
            os.killpg(late, signal.SIGKILL)
            pid, status = os.waitpid(late, 0)
        if not pid:
            time.sleep(0.1)
            continue
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it left behind
        job = running.pop(pid)
        if job.mutation is not None:
            (job.tree / job.mutation.file).write_bytes(job.whole)
        trees.append(job.tree)
        yield (
            job,
            "time over" if pid == late else ("a test fails" if status else "all pass"),
            time.monotonic() - job.began,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--number",
        type=int,
        default=87,
        metavar="N",
        help="mutations, evenly over files; 0: all (default: 87)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: 1)")
    parser.add_argument(
        "--file",
        action="append",
        choices=COVERED,
        metavar="FILE",
        help="of this file only; may be repeated",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="at the same time (default: 2)"
    )
    parser.add_argument("--list", action="store_true", help="show them and run nothing")
    args = parser.parse_args()
    todo = chosen(args.file or list(COVERED), args.number, args.seed)
    if args.list:
        print(*sorted(todo), sep="\n")
        return 0
    # Which Python knows by its second: two mutations may come within one
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in LIBRARIES:
        importlib.import_module(name)
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "site", "__pycache__", "*.egg-info")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / f"copy{number}" for number in range(args.jobs)]
        trees = [shutil.copytree(ROOT, copy, ignore=ignored) for copy in copies]
        whole = dict.fromkeys(
            name for mutation in todo for name in COVERED[mutation.file] if name.endswith(".py")
        )
        took = {}
        for job, result, seconds in results([((name,), None, MOST) for name in whole], trees):
            took[job.arguments[0]] = seconds
            if result != "all pass":
                print(job.tree.with_suffix(".log").read_text()[-3000:])
                raise SystemExit(
                    f"mutate: without a mutation, of {' '.join(job.arguments)}: {result}"
                )
        limits = {
            file: 30 + PATIENCE * sum(took.get(name, 0) for name in names)
            for file, names in COVERED.items()
        }
        tasks = [(COVERED[mutation.file], mutation, limits[mutation.file]) for mutation in todo]
        for job, result, seconds in results(tasks, trees):
            survivors += [job.mutation] if result == "all pass" else []
            word = "SURVIVES" if result == "all pass" else "killed"
            print(f"{word:8} {seconds:4.0f} s  {job.mutation}  ({result})", flush=True)
    share = 1 - len(survivors) / max(len(todo), 1)
    print(
        f"\n{len(todo) - len(survivors)} of {len(todo)} killed, {100 * share:.1f} %",
        *survivors,
        sep="\n  ",
    )
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
