"""The script that breaks the mathematics: what it would try is code, and what it says about the
tree holds.
"""

import ast

import mutate
import pytest


def test_files_and_their_tests_are_there() -> None:
    for file, names in mutate.COVERED.items():
        assert (mutate.ROOT / file).is_file(), file
        assert all(
            (mutate.ROOT / "tests" / name).is_file() for name in names if name.endswith(".py")
        ), file
        assert len(mutate.mutations(file, (mutate.ROOT / file).read_bytes())) > 0, file


@pytest.mark.parametrize("file", mutate.EQUIVALENT)
def test_what_is_said_to_be_equivalent_is_a_mutation(file: str) -> None:
    """Else the code has changed, and the reason may no longer hold."""
    found = mutate.mutations(file, (mutate.ROOT / file).read_bytes())
    left = mutate.EQUIVALENT[file].keys() - {mutate.described(mutation) for mutation in found}
    assert not left and sum(map(mutate.equivalent, found)) >= len(mutate.EQUIVALENT[file])


def test_mutations_are_other_programs() -> None:
    chosen = mutate.chosen([*mutate.COVERED], 200, 5)
    assert (
        len(set(chosen)) == 200 and {mutation.file for mutation in chosen} == mutate.COVERED.keys()
    )
    assert (
        chosen
        == mutate.chosen([*mutate.COVERED], 200, 5)
        != mutate.chosen([*mutate.COVERED], 200, 6)
    )
    for mutation in chosen:
        whole = (mutate.ROOT / mutation.file).read_bytes()
        assert whole[mutation.start : mutation.end].decode() == mutation.old
        assert ast.dump(ast.parse(mutation.within(whole))) != ast.dump(ast.parse(whole)), str(
            mutation
        )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = a < b", {"x = (a <= b)", "x = (a > b)"}),
        ("x = a + b", {"x = (a - b)"}),
        ("x = not a and b", {"x = (not a or b)", "x = a and b"}),
        ("x = min(a, b)", {"x = max(a, b)"}),
        ("x = a.clamp(min=0)", {"x = a", "x = a.clamp(min=1)"}),
        ("x = f(a, b=True)", {"x = f(a)", "x = f(a, b=False)"}),
        ("x = a if b else c", {"x = (a)", "x = (c)"}),
        ("LEAST = 1e-4  # λ", {"LEAST = 0.0002  # λ"}),
        ("x = -1", {"x = 1"}),
        ("x = y.sum(1)[0]", set()),
        ("raise ValueError(f'{a + 1}')", set()),
        ("class Z(IntEnum):\n    DATA = 2", set()),
        (
            "@dataclass(frozen=True)\nclass Z:\n    a: int = 2",
            {"@dataclass(frozen=True)\nclass Z:\n    a: int = 3"},
        ),
    ],
)
def test_kinds_of_mutations(code: str, expected: set[str]) -> None:
    source = code.encode()
    assert {
        mutation.within(source).decode() for mutation in mutate.mutations("x.py", source)
    } == expected
