"""Packaging of `fairseq-erpo`: two packages, the text plugin `fairseq_erpo` and its sibling for
control, `gail`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "fairseq_erpo" / "__init__.py").read_text("utf-8")
)
README = HERE / "README.md"

if VERSION is None:
    raise SystemExit("fairseq_erpo/__init__.py has no __version__")

# What trains, an extra for each framework; `all` has the three.
FRONT_ENDS = {
    # fairseq-fixed is fairseq's last main branch made to run on Python 3.11 and later; the module
    # is still called fairseq. It compiles against torch, so it wants `pip install
    # --no-build-isolation` after torch (see CONTRIBUTING.md). TensorBoard is for
    # --tensorboard-logdir.
    "fairseq": ["fairseq-fixed==0.12.3.1", "tensorboard"],
    # gymnasium's MuJoCo environments import imageio; SB3's own [extra] would bring Atari and
    # OpenCV.
    "gail": [
        "gymnasium",
        "imageio",
        "matplotlib",
        "mujoco",
        "rich",
        "stable-baselines3",
        "tensorboard",
        "tqdm",
    ],
    # Before 5.24 the decoder's cache has another name.
    "huggingface": ["accelerate", "datasets", "peft", "tensorboard", "transformers>=5.24,<6"],
}

setup(
    name="fairseq-erpo",
    version=VERSION.group(1),
    description=(
        "Entropy-regularised policy optimisation for fairseq and transformers: MLE, RAML, SPG, "
        "data noising and their interpolation"
    ),
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The fairseq-erpo authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["fairseq_erpo", "fairseq_erpo.*", "gail", "gail.*"]),
    python_requires=">=3.11,<3.13",
    entry_points={
        "console_scripts": [
            "fairseq-erpo=fairseq_erpo.__main__:main",
            "erpo-gail=gail.__main__:main",
        ]
    },
    project_urls={"Paper": "https://arxiv.org/abs/1811.09740"},
    install_requires=[
        # A user's own build stays; before 2.6, reading a checkpoint could run code (CVE-2025-32434)
        "torch>=2.6,<3",
        "matplotlib",
        "numpy",
        "rich",
        "rouge-score",
        "sacrebleu",
        "sentencepiece",
        "tabulate",
        "tqdm",
    ],
    extras_require={
        **FRONT_ENDS,
        "all": sorted({package for packages in FRONT_ENDS.values() for package in packages}),
        "minari": ["minari[hdf5]"],  # python -m gail record --from-minari
        "film": ["imageio-ffmpeg"],  # python -m gail render --out film.mp4
        "slurm": ["submitit"],  # --slurm of tables and sweeps, examples/cluster/slurm.py
        "docs": ["furo", "myst-parser", "sphinx"],  # make docs
        "dev": [
            "hypothesis",
            "minari[hdf5]",
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "scipy",
            "submitit",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
