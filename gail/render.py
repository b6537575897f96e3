"""An episode of a policy as a picture or a film."""

import os

# Before mujoco is imported: off-screen, without a window system.
os.environ.setdefault("MUJOCO_GL", "egl")

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fairseq_erpo.files import atomic_write, cause_of
from gail.policies import Act
from gail.policy_flags import add_policy, policy_of
from gail.simulator import check_mujoco, make_env

SUFFIXES = (".png", ".gif", ".mp4")
PICTURES = 6  # of an episode, side by side in a PNG
GIF_RATE = 25  # frames a second; viewers slow faster ones down
GIF_SIZE = 240


def render(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """The verb: one episode from the environment's own reset, by the mean action."""
    parser.add_argument(
        "run", type=Path, nargs="?", metavar="POLICY", help="policy.pt or best.pt of a run"
    )
    add_policy(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends in .png, .gif or .mp4"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=1000,
        metavar="N",
        help="at most this many, default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    args = parser.parse_args(argv)
    if args.out.suffix not in SUFFIXES:
        raise ValueError(f"--out {args.out}: must end in {', '.join(SUFFIXES)}")
    if args.run is not None and args.policy is None:
        args.policy = args.run
    if not (args.policy or args.expert or args.sb3):
        raise ValueError("name a policy: a file, or --expert, or --sb3")
    env_id, act = policy_of(args)
    env = visible(env_id)
    rate = int(env.metadata["render_fps"])
    every = {".png": 1, ".gif": max(1, rate // GIF_RATE), ".mp4": 1}[args.out.suffix]
    frames = film(env, act, args.steps, args.seed, every)
    env.close()
    with atomic_write(args.out, "--out") as part:
        {".png": write_png, ".gif": write_gif, ".mp4": write_mp4}[args.out.suffix](
            part, frames, rate / every
        )
    print(f"{args.out}: {len(frames)} frames")


def visible(env_id: str) -> gym.Env[Any, Any]:
    """Make an environment that renders, without the effects that take nine tenths of the time in
    software.

    Raises ValueError where there is no EGL.
    """
    env = make_env(env_id, render_mode="rgb_array")
    check_mujoco(env)
    model: Any = env.unwrapped.model  # type: ignore[attr-defined]
    # A camera that follows the body, where the model has one.
    camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    env.unwrapped.mujoco_renderer.camera_id = camera  # type: ignore[attr-defined]
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    model.mat_reflectance[:] = 0
    env.reset(seed=0)
    try:
        env.render()
    except Exception as error:  # whatever the driver's binding raises
        raise ValueError(
            f"there is no off-screen rendering here (MUJOCO_GL={os.environ['MUJOCO_GL']}: "
            f"{cause_of(error)}); "
            "install EGL (Debian: libegl1 and libgl1-mesa-dri), or set MUJOCO_GL=osmesa with "
            "libosmesa6"
        ) from None
    return env


def film(
    env: gym.Env[Any, Any], act: Act, steps: int, seed: int, every: int
) -> list[NDArray[np.uint8]]:
    """Return every `every`-th frame of one episode."""
    observation, _ = env.reset(seed=seed)
    frames = []
    for step in tqdm(range(steps), "rendering", disable=None):
        if step % every == 0:
            frames.append(np.asarray(env.render(), dtype=np.uint8))
        observation, _, terminated, truncated, _ = env.step(act(observation[None], None)[0])
        if terminated or truncated:
            break
    return frames


def write_png(path: Path, frames: Sequence[NDArray[np.uint8]], rate: float) -> None:
    """Write some moments of the episode side by side."""
    from PIL import Image

    chosen = np.linspace(0, len(frames) - 1, min(PICTURES, len(frames))).astype(int)
    Image.fromarray(np.concatenate([frames[i] for i in chosen], axis=1)).save(path, format="PNG")


def write_gif(path: Path, frames: Sequence[NDArray[np.uint8]], rate: float) -> None:
    from PIL import Image

    small = [Image.fromarray(frame).resize((GIF_SIZE, GIF_SIZE)).quantize(64) for frame in frames]
    small[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=small[1:],
        duration=round(1000 / rate),
        loop=0,
    )


def write_mp4(path: Path, frames: Sequence[NDArray[np.uint8]], rate: float) -> None:
    """Raises ValueError without the wheel that brings ffmpeg."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        raise ValueError("MP4 needs ffmpeg: pip install imageio-ffmpeg, or write a .gif") from None
    height, width, _ = frames[0].shape
    # The file's name ends in .part until it is complete, so the format is stated.
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=rate, output_params=["-f", "mp4"]
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
