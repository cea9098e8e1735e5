"""What pyproject.toml cannot say: in a wheel the bundled weights lie inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mask2kan*", "training*"]), "mask2kan.weights"],
    package_dir={"mask2kan.weights": "weights"},
)
