"""Demonstrations: what is kept, what is sampled, and what is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gail_worlds import PENDULUM, demonstrations, noise, write_demos

from gail import archive, trajectories
from gail.__main__ import main
from gail.build import check_fit
from gail.demos import FIELDS, Demonstrations
from gail.settings import RunSettings
from gail.simulator import make_env

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    """Three episodes of random actions: short, and of different lengths."""
    return demonstrations(trajectories=3, act=noise(1, 3), stochastic=True)


def assert_same(a: Demonstrations, b: Demonstrations) -> None:
    for name in FIELDS:
        assert getattr(a, name).dtype == getattr(b, name).dtype, name
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_written_and_read(demos: Demonstrations, tmp_path: Path) -> None:
    path = write_demos(tmp_path, demos)
    assert_same(archive.load(path, PENDULUM), demos)
    manifest = json.loads(path.with_suffix(".json").read_text())
    # The pendulum pays 1 a step but the last
    assert manifest["returns"] == [float(length) for length in demos.lengths - 1]
    assert set(manifest["versions"]) == {"python", "gymnasium", "mujoco", "numpy"}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"{PENDULUM}.json",
        f"{PENDULUM}.npz",
    ]


def test_a_failed_write_leaves_the_old_file(
    demos: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_demos(tmp_path, demos)

    def full(sink: Any, **arrays: Any) -> None:
        sink.write(b"half")
        raise OSError("no space")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        write_demos(tmp_path, demos.first(1))
    assert_same(archive.load(path), demos)
    assert len(list(tmp_path.iterdir())) == 2


def test_sample_of_50() -> None:
    """Without replacement, in the order of time, at all depths, and the same pairs however many
    other trajectories there are.
    """
    whole = demonstrations(trajectories=3)
    few = whole.subsample(50)
    for k in range(3):
        index = few.index[few.rows_of(k)]
        assert len(index) == 50 and np.all(np.diff(index) > 0)
        # Misses a tenth of 1000 steps with probability .9^50 = .005
        assert index[0] < 100 and index[-1] > 900
        assert np.array_equal(
            few.observations[few.rows_of(k)], whole.observations[whole.rows_of(k)][index]
        )
        assert np.array_equal(few.states[few.rows_of(k)], whole.states[whole.rows_of(k)][index])
    assert_same(whole.first(1).subsample(50), few.first(1))
    assert not np.array_equal(few.index[few.rows_of(0)], few.index[few.rows_of(1)])
    assert not np.array_equal(whole.subsample(50, seed=1).index, few.index)
    assert np.array_equal(few.lengths, [1000, 1000, 1000])


def test_short_trajectories_are_kept_whole(demos: Demonstrations) -> None:
    assert_same(demos.subsample(10_000), demos)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (
            "observations",
            lambda x: x[:, :0].astype(int),
            "observations must be an array of kind 'f'",
        ),
        (
            "observations",
            lambda x: np.where(np.arange(len(x))[:, None] == 3, np.nan, x),
            r"observations has a number.*\[3, 0\]",
        ),
        (
            "states",
            lambda x: np.where(np.arange(len(x))[:, None] == 2, np.inf, x),
            "states has a number that is not finite",
        ),
        ("actions", lambda x: x[:-1], "actions has the shape"),
        ("actions", lambda x: x[:, 0], "actions must have the axes NA"),
        ("last_observations", lambda x: x[:, 1:], "last_observations has the shape"),
        ("index", lambda x: x[::-1].copy(), "index must rise"),
        ("index", lambda x: x + 10_000, "index must lie in"),
        ("trajectory", lambda x: x + 1, "trajectory must rise from 0"),
        ("terminated", lambda x: x.astype(float), "terminated must be an array of kind 'b'"),
        ("rewards", lambda x: x.tolist(), "rewards must be an array of kind 'f'.*not list"),
    ],
)
def test_fields_are_checked(
    demos: Demonstrations, field: str, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(demos, **{field: change(getattr(demos, field))})


def pickled(arrays: Arrays) -> Arrays:
    return arrays | {"rewards": np.array([{"a": 1}], dtype=object)}


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("states"), "no array states; record with"),
        (pickled, "rewards holds Python objects, and cannot be read without executing code"),
        (
            lambda arrays: arrays | {"qvel": arrays["qvel"] * np.nan},
            "qvel has a number that is not finite",
        ),
    ],
)
def test_files_are_checked(
    demos: Demonstrations, tmp_path: Path, change: Callable[[Arrays], Arrays], message: str
) -> None:
    """Whatever else stands in the .npz, with a manifest that fits it."""
    path = write_demos(tmp_path, demos)
    np.savez(path, **change({name: getattr(demos, name) for name in FIELDS}))
    edit(path, sha256=archive.hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=message):
        archive.load(path)


def edit(path: Path, **changes: Any) -> None:
    file = path.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format is not 'gail-demonstrations'"),
        ({"version": 9}, "version 9 is not 1"),
        ({"env_id": None}, "env_id is missing"),
        ({"sha256": "0"}, "sha256 is not what its manifest says"),
        (
            {"env_id": "Hopper-v5"},
            "env_id is Hopper-v5, not InvertedPendulum-v5; give --env Hopper-v5",
        ),
    ],
)
def test_manifests_are_checked(
    demos: Demonstrations, tmp_path: Path, changes: Arrays, message: str
) -> None:
    path = write_demos(tmp_path, demos)
    edit(path, **changes)
    with pytest.raises(ValueError, match=message):
        archive.load(path, PENDULUM)


def test_damage_is_named(demos: Demonstrations, tmp_path: Path) -> None:
    path = write_demos(tmp_path, demos)
    content = path.read_bytes()[:-100]
    path.write_bytes(content)
    edit(path, sha256=archive.hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match=str(path)):
        archive.load(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        archive.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"there is no .*\.json"):
        archive.load(path)


def test_the_environment_must_fit(demos: Demonstrations) -> None:
    """A manifest may lie about the environment; sizes do not."""
    hopper = RunSettings("Hopper-v5", "gail_interp", "x.npz")
    with pytest.raises(ValueError, match="are not those of Hopper-v5"):
        check_fit(demos, hopper)
    pendulum = RunSettings(PENDULUM, "gail_interp", "x.npz")
    with pytest.raises(ValueError, match="must lie in the environment's box"):
        check_fit(replace(demos, actions=demos.actions * 10), pendulum)
    with pytest.raises(ValueError, match="record them anew"):
        check_fit(replace(demos, states=demos.states[:, 1:]), pendulum)


def test_exchange_with_imitation(demos: Demonstrations, tmp_path: Path) -> None:
    """There and back: all but what its trajectories do not know, the simulator's state."""
    trajectories.save(demos, tmp_path / "theirs.npz")
    back = trajectories.load(tmp_path / "theirs.npz", PENDULUM)
    for name in set(FIELDS) - {"states", "qpos", "qvel"}:
        assert np.array_equal(getattr(back, name), getattr(demos, name)), name
    assert back.states.shape == (len(demos.index), 0)
    with pytest.raises(ValueError, match="record them anew"):
        check_fit(back, RunSettings(PENDULUM, "gail_interp", "x.npz"))
    check_fit(back, RunSettings(PENDULUM, "gail_interp", "x.npz", prefix="none"))
    one = trajectories.to_arrays(demos)[1]
    assert len(one["obs"]) == len(one["acts"]) + 1 == demos.lengths[1] + 1
    assert np.array_equal(one["obs"][-1], demos.last_observations[1])
    with pytest.raises(ValueError, match="only whole trajectories"):
        trajectories.to_arrays(demos.subsample(2))
    with pytest.raises(ValueError, match=r"trajectory 0: obs .* are not \[T \+ 1"):
        trajectories.from_arrays("Hopper-v5", trajectories.to_arrays(demos))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a data set without an author
def test_minari_episodes_are_demonstrations_without_states(
    demos: Demonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first K of them, as recorded; a set that is not here, or of another task, is refused by
    name.
    """
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    episodes = []
    for k, one in enumerate(trajectories.to_arrays(demos)):
        ends = [False] * (len(one["acts"]) - 1)
        record = {
            "observations": one["obs"],
            "actions": one["acts"],
            "rewards": one["rews"].tolist(),
        }
        ended = {
            "terminations": [*ends, one["terminal"]],
            "truncations": [*ends, not one["terminal"]],
        }
        episodes.append(minari.data_collector.EpisodeBuffer(id=k, **record, **ended))
    env = make_env(PENDULUM)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    minari.create_dataset_from_buffers("pendulum/random-v0", episodes, **spaces)
    import_it = [
        "record",
        "--from-minari",
        "pendulum/random-v0",
        "--trajectories",
        "2",
        "--out",
        str(tmp_path / "d.npz"),
    ]
    main([*import_it, "--env", PENDULUM])
    back = archive.load(tmp_path / "d.npz", PENDULUM)
    assert len(back) == 2 and back.states.size == 0
    for name in ("observations", "actions", "rewards", "lengths", "terminated"):
        np.testing.assert_allclose(
            getattr(back, name),
            getattr(demos, name)[: len(getattr(back, name))],
            rtol=1e-6,
            err_msg=name,
        )
    assert len(back.actions) == demos.lengths[:2].sum()
    with pytest.raises(SystemExit, match="--from-minari needs --env"):
        main(import_it)
    with pytest.raises(
        SystemExit, match=r"--from-minari pendulum/random-v0: trajectory 0: obs .* are not"
    ):
        main([*import_it, "--env", "Hopper-v5"])
    with pytest.raises(
        SystemExit,
        match="--from-minari a/b-v0: it is not here; `minari download a/b-v0` fetches it",
    ):
        main(
            [
                "record",
                "--from-minari",
                "a/b-v0",
                "--env",
                PENDULUM,
                "--out",
                str(tmp_path / "e.npz"),
            ]
        )
