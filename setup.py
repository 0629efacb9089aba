"""Packages the code, and the top-level `configs` folder as `paddleseg_ext/configs`. All else is in pyproject.toml."""
from setuptools import find_packages, setup

CONFIGS = 'paddleseg_ext.configs'

setup(
    packages=[*find_packages(include=['paddleseg_ext', 'paddleseg_ext.*']), CONFIGS],
    package_dir={'paddleseg_ext': 'paddleseg_ext', CONFIGS: 'configs'},
    package_data={CONFIGS: ['*.yml', '*.json', '*/*.yml']},
    include_package_data=False,
)
