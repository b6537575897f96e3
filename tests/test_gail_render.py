"""Films, where this machine can draw."""

from pathlib import Path

import pytest
from gail_worlds import settings

from gail.__main__ import main
from gail.run import train


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    train(settings("random"), folder, quiet=True)
    return str(folder / "policy.pt")


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_film(policy: str, tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    file = tmp_path / f"film.{suffix}"
    try:
        main(["render", policy, "--steps", "12", "--out", str(file)])
    except SystemExit as refusal:
        assert "off-screen rendering" in str(refusal) and not file.exists()
        pytest.skip("no EGL here, and it says so")
    with Image.open(file) as image:
        assert image.format == suffix.upper()
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10  # something is to be seen


def test_refusals(policy: str, tmp_path: Path) -> None:
    for arguments, message in (
        ([policy, "--out", "film.avi"], "must end in .png"),
        (["--out", "film.png"], "name a policy"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["render", *arguments])


def test_no_egl_is_said(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the driver raises becomes one line with the remedy."""
    import gymnasium.envs.mujoco.mujoco_rendering as rendering

    def broken(*arguments: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(rendering.MujocoRenderer, "render", broken)
    with pytest.raises(SystemExit, match=r"eglQueryString.*install EGL"):
        main(["render", policy, "--out", str(tmp_path / "film.png")])
    assert not (tmp_path / "film.png").exists()
